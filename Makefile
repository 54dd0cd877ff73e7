# `make demo` and `make test` need Python 3.11 or newer with venv and pip, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-numeric coverage lint install clean

demo: $(VENV)/installed  ## everything once, offline: corpus, pre-training, evaluation, index, search, report
	$(BIN)/ccmb quickstart --out quickstart

# Bytecode is kept, whatever the environment says: processes that tests start need not compile anew.
test: $(VENV)/installed-dev lint  ## all tests, after the linter and the type checker
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# What rounds otherwise on other processors: torch, oneDNN and MKL are told to leave out what newer ones have.
NUMERIC := $(BIN)/pytest -m 'numeric and not slow' -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-numeric: $(VENV)/installed-dev  ## the numeric tests as on a processor without AVX, and with AVX2 alone
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OMP_NUM_THREADS=1 $(NUMERIC)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=2 $(NUMERIC)

# COVERAGE is what is run: `make coverage COVERAGE=tests/search`.
COVERAGE ?= tests

coverage: $(VENV)/installed-dev  ## which lines of the package the tests reach, their processes too: htmlcov/index.html
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --cov --cov-report=term --cov-report=html -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(COVERAGE)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

install: $(VENV)/installed

# A torch that is there already satisfies the package; 2.13.0 is the one that all figures were measured with.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -e '.[all]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install -q -e '.[all,dev]'
	touch $@

clean:
	rm -rf $(VENV) quickstart runs htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache
