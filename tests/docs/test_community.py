"""The files for those who contribute, cite and release: they parse, agree with pyproject.toml, and name what exists."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import ccmb
from tests.helpers.pages import ROOT, read

PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
PAGES = (
    "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "ARCHITECTURE.md", "ARCHITECTURE.zh.md",
    "docs/glossary.md", "docs/glossary.zh.md", "README.md", "README.zh.md",
)  # fmt: skip
ADDRESSES = (
    "https://arxiv.org/abs/2205.03860", "https://doi.org/10.1145/3581783.3611877", "https://keepachangelog.com/en/1.1.0/",
    "https://semver.org/spec/v2.0.0.html",
)  # fmt: skip


def parsed(path: Path) -> Any:
    """YAML; the key `on` of workflows is what YAML 1.1 takes for true."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def lower_bound(name: str) -> str:
    [bound] = [line.removeprefix(f"{name}>=") for line in PROJECT["dependencies"] if line.startswith(f"{name}>=")]
    return bound


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_are_whole(path: Path) -> None:
    workflow = parsed(path)
    assert {"name", True, "permissions", "jobs"} <= set(workflow)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        assert job["timeout-minutes"] > 0
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
        if "needs" in job:
            assert job["needs"] in workflow["jobs"]
        for target in re.findall(
            r"^make ([\w-]+)", "\n".join(step.get("run", "") for step in job["steps"]), re.MULTILINE
        ):
            assert re.search(rf"^{target}: ", read("Makefile"), re.MULTILINE)


def test_the_matrix_has_the_oldest_of_pyproject_and_the_newest() -> None:
    matrix = parsed(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    kinds = {kind["name"]: kind for kind in matrix["libraries"]}
    assert set(kinds) == {"oldest", "newest"}
    for name in ("torch", "transformers"):
        assert kinds["oldest"][name] == f"{name}=={lower_bound(name)}.0"
        assert kinds["newest"][name] == name
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    assert matrix["python"] == ["3.11", "3.12", "3.13"]


def test_ci_lints_what_make_lints_and_runs_existing_tests() -> None:
    lint = "\n".join(step.get("run", "") for step in parsed(ROOT / ".github/workflows/ci.yml")["jobs"]["lint"]["steps"])
    commands = re.findall(r"^\t\$\(BIN\)/((?:ruff|mypy).*)$", read("Makefile"), re.MULTILINE)
    assert len(commands) == 3
    assert all(command in lint for command in commands)
    [pages] = [
        step["run"]
        for step in parsed(ROOT / ".github/workflows/docs.yml")["jobs"]["pages"]["steps"]
        if "pytest" in step.get("run", "")
    ]
    assert all((ROOT / name).exists() for name in pages.split()[1:])


def test_releases_are_published_without_a_token_from_tags_alone() -> None:
    release = parsed(ROOT / ".github" / "workflows" / "release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in read(".github/workflows/release.yml")
    assert ccmb.__version__ == PROJECT["version"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_of_issues_are_whole(path: Path) -> None:
    form = parsed(path)
    assert all(isinstance(form[key], str) for key in ("name", "description"))
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in asked} <= {"input", "textarea"}
    assert len({part["id"] for part in asked}) == len(asked)
    assert all(part["attributes"]["label"] for part in asked)
    assert any(part.get("validations", {}).get("required") for part in asked)


def test_hooks_are_the_tools_of_the_environment() -> None:
    [repository] = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff", "ruff-format", "mypy"]
    wanted = " ".join(PROJECT["optional-dependencies"]["dev"])
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].split()[0] in wanted


def test_the_citation_is_whole_and_has_the_version_of_the_package() -> None:
    citation = parsed(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert (citation["type"], citation["version"]) == ("software", PROJECT["version"])
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper)
    assert (paper["type"], paper["title"]) == ("conference-paper", "CCMB: A Large-scale Chinese Cross-modal Benchmark")
    assert (paper["year"], paper["start"], paper["end"]) == (2023, 4219, 4227)
    assert (paper["doi"], paper["url"]) == ("10.1145/3581783.3611877", "https://arxiv.org/abs/2205.03860")
    assert [author["family-names"] for author in paper["authors"]][:3] == ["Xie", "Cai", "Li"]
    assert [author["family-names"] for author in paper["authors"]][-4:] == ["Leng", "Zhang", "Ji", "Deng"]
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(page))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_addresses_are_only_those_that_are_known() -> None:
    pages = [
        *PAGES,
        "CITATION.cff",
        "pyproject.toml",
        ".github/ISSUE_TEMPLATE/config.yml",
        "src/ccmb/tasks/pretraining/model_card.py",
    ]
    for page in pages:
        addresses = set(re.findall(r"https?://[^\s)\"'`>，）]+", read(page)))
        assert addresses <= set(ADDRESSES), page
    assert set(PROJECT["urls"].values()) <= set(ADDRESSES)
    mails = [page for page in pages if re.search(r"[\w.+-]+@[\w-]+\.\w+", read(page))]
    assert mails == []


def test_modules_of_the_changelog_are_where_it_says() -> None:
    rows = re.findall(r"^  \| (`ccmb.*) \| (`ccmb.*) \|$", read("CHANGELOG.md"), re.MULTILINE)
    assert len(rows) > 12
    names = [name for _, now in rows for name in re.findall(r"`([\w.]+)`", now)]
    assert [name for name in names if find_spec(name) is None] == []
    assert read("CHANGELOG.md").count(f"## [{PROJECT['version']}]") == 1


def test_targets_and_files_of_the_contribution_page_exist() -> None:
    text = read("CONTRIBUTING.md")
    targets = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert targets == {"test", "lint", "coverage", "demo", "test-numeric"}
    assert all(re.search(rf"^{target}: ", read("Makefile"), re.MULTILINE) for target in targets)
    names = re.findall(r"`((?:tests|benchmarks|docs)[\w./-]*)`", text)
    assert [name for name in names if not (ROOT / name).exists()] == []
    assert len(re.findall(r"^\d+\. ", text.partition("## Style")[2].partition("## Tests")[0], re.MULTILINE)) == 10


@pytest.mark.parametrize(("page", "ending"), [("README.md", ".md"), ("README.zh.md", ".zh.md")])
def test_the_readme_leads_to_every_page(page: str, ending: str) -> None:
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")}
    own = {name for name in pages if name.endswith(".zh.md") == (ending == ".zh.md")}
    assert own <= set(re.findall(r"\]\(([^)#]+)", read(page)))


def test_every_name_of_the_package_in_a_page_exists() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    names = {
        name
        for path in pages
        if path.name != "CHANGELOG.md"  # which names where modules were before, too
        for name in re.findall(r"`(ccmb\.[\w.]+)`", path.read_text(encoding="utf-8"))
    }
    assert len(names) > 40
    assert [name for name in sorted(names) if not _is_there(name)] == []


def _is_there(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            target: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(target, part):
                return False
            target = getattr(target, part)
        return True
    return False
