"""Two processes of `ccmb pretrain`, as of torchrun, end where one does, and either continues the other's run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.files import read_json_lines
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import pretrain
from tests.helpers.exact import PROOFS
from tests.helpers.processes import Ended, ccmb
from tests.helpers.runs import tiny_corpus, tiny_recipe

pytestmark = PROOFS

# Dropout is each process's own, and a share of the rows would be another share.
COMPARABLE = [
    "objectives.fgr.batch_share=1.0",
    "model.text.hidden_dropout_prob=0.0",
    "model.text.attention_probs_dropout_prob=0.0",
    "training.checkpoint_every=2",
    "optimizer.warmup_steps=1",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("data") / "corpus")


def one_process(corpus: Path, out: Path, *overrides: str) -> None:
    name, *tiny = tiny_recipe(corpus, steps=4)
    pretrain(load_recipe(PretrainRecipe, find_recipe(name), [*tiny, *COMPARABLE, *overrides]), out)


def words_of(corpus: Path, out: Path, *overrides: str) -> list[str]:
    return ["pretrain", *tiny_recipe(corpus, steps=4), *COMPARABLE, *overrides, "--out", str(out)]


def torchrun(words: list[str]) -> Ended:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "tests.helpers.double_ccmb",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, env=environment)
    return Ended(done.returncode, done.stderr)


def assert_same_end(one: Path, other: Path) -> None:
    kept = ("step", "loss", "gcpr", "fgr", "mlm", "tgd", "fgd", "temperature", "gradient_norm", "lr")
    lines = [[line for _, line in read_json_lines(out / "metrics.jsonl")] for out in (one, other)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]] == [1, 2, 3, 4]
    for one_line, other_line in zip(*lines, strict=True):
        for key in set(kept) & set(one_line):
            assert other_line[key] == pytest.approx(one_line[key], rel=1e-7), (one_line["step"], key)
    weights, others = (load_file(out / "model" / "model.safetensors") for out in (one, other))
    for name, tensor in weights.items():
        assert tensor.dtype == torch.float64
        # AdamW divides a gradient by its size plus 1e-8: one that is but rounding, 1e-17, makes 1e-9 of a step.
        away = float((others[name] - tensor).abs().max())
        assert away < 1e-8, f"{name}: off by {away}"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_end_where_one_does_and_either_continues_the_other(
    strategy: str, corpus: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    parallel = f"training.parallel={strategy}"
    one_process(corpus, one, parallel)
    words = words_of(corpus, two, parallel)
    run = torchrun(words) if strategy == "ddp" else ccmb(*words, processes=2)  # torchrun itself once: it is slow
    assert run.code == 0, run.err
    assert_same_end(one, two)

    shutil.rmtree(two / "checkpoints" / "step-4")
    shutil.rmtree(two / "model")
    one_process(corpus, two, parallel)
    assert_same_end(one, two)


def test_a_batch_that_cannot_be_shared_is_one_line(corpus: Path, tmp_path: Path) -> None:
    run = ccmb(*words_of(corpus, tmp_path / "run", "training.batch_size=7"), processes=2)
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert run.err.startswith("ccmb: training.batch_size=7 cannot be shared evenly by 2 processes")
