"""What the READMEs, the recipes and the help tell users to type works."""

import json
import re
import shlex

import pytest

from ccmb.core.config.recipe_files import RECIPES, find_recipe, load_recipe
from ccmb.data.labelled_pairs import label_of, read_labelled_pairs
from ccmb.data.pairs import read_pairs
from ccmb.demos.quickstart import QUICK, Quickstart
from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from tests.helpers.pages import (
    CAPTION_PAGES,
    CORPUS_PAGES,
    GENERATION_PAGES,
    PAGES,
    SEARCH_PAGES,
    SERVING_PAGES,
    TESTING_PAGES,
    TUNING_PAGES,
    VERBS,
    blocks,
    parse,
    read,
)
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor

READMES = ("README.md", "README.zh.md")
RUN_PAGES = ("docs/runs.md", "docs/runs.zh.md")
ABLATION = ("docs/ablation.md", "docs/ablation.zh.md")
SPEED = ("docs/speed.md", "docs/speed.zh.md")
EVALUATION = ("docs/evaluation.md", "docs/evaluation.zh.md")
DATA_PAGES = ("docs/data.md", "docs/data.zh.md")
FAST_PAGES = ("docs/fast.md", "docs/fast.zh.md")
PAIRS = (
    READMES, PAGES, RUN_PAGES, ABLATION, SPEED, EVALUATION, DATA_PAGES, TUNING_PAGES, CAPTION_PAGES, GENERATION_PAGES,
    CORPUS_PAGES, FAST_PAGES, SEARCH_PAGES, SERVING_PAGES, TESTING_PAGES,
)  # fmt: skip
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?ccmb [a-z].*")


def commands_of_page(name: str) -> list[str]:
    """Those in blocks, and those between backticks."""
    lines = [line for block in blocks(name, "bash") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", read(name), flags=re.DOTALL))
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if COMMAND.fullmatch(line)]


def commands_of_recipes() -> list[str]:
    """Those in comments, up to a remark after two spaces."""
    lines = [line for path in RECIPES.rglob("*.yaml") for line in path.read_text(encoding="utf-8").splitlines()]
    return [match[0].split("  ")[0] for line in lines if line.startswith("#") and (match := COMMAND.search(line))]


def commands_of_help() -> list[str]:
    helps = [command.help or "" for command in VERBS.values()]
    return [match[0] for text in helps for line in text.splitlines() if (match := COMMAND.search(line))]


@pytest.mark.parametrize(
    "source",
    [
        # The pages of testing have no command of ours.
        *(lambda name=name: commands_of_page(name) for names in PAIRS if names != TESTING_PAGES for name in names),
        commands_of_recipes,
        commands_of_help,
    ],
)
def test_every_command_exists_with_its_options_and_recipe(source):
    commands = [parse(line) for line in source()]
    assert len(commands) >= 2
    for verb, values in commands:
        if verb in ("pretrain", "ablate") and values["recipe"] != "RECIPE":
            load_recipe(PretrainRecipe, find_recipe(values["recipe"]), values["overrides"])
        if verb == "finetune" and values["recipe"] != "RECIPE":
            load_recipe(FinetuneRecipe, find_recipe(values["recipe"], FINETUNING), values["overrides"])


def test_a_command_that_does_not_exist_would_be_noticed():
    with pytest.raises(KeyError):
        parse("ccmb find 船")
    with pytest.raises(Exception, match="No such option"):
        parse("ccmb search 船 --colour red")


def test_both_languages_list_the_same_commands_and_every_verb_has_an_example():
    for english, chinese in PAIRS:
        assert commands_of_page(english) == commands_of_page(chinese)
    assert {parse(line)[0] for line in commands_of_help()} == set(VERBS)


def test_what_the_quickstart_suggests_next_exists(tmp_path):
    out = tmp_path / "quick start"
    (out / "corpus").mkdir(parents=True)
    (out / "corpus" / "pairs.jsonl").write_text('{"split": "test", "query": "红船"}\n', encoding="utf-8")
    recipe = load_recipe(PretrainRecipe, find_recipe("quickstart"))
    commands = [parse(line["command"]) for line in Quickstart(out, QUICK, recipe, full=False)._next_commands()]
    assert {verb for verb, _ in commands} == {"search", "index", "evaluate", "finetune", "quickstart"}
    assert {values["index"] for verb, values in commands if verb == "search"} == {out / "index"}


@pytest.mark.parametrize("name", READMES)
def test_recipes_and_make_targets_of_the_readme_exist(name):
    named = re.findall(r"^\| (`[^|]*`) \|", read(name), re.MULTILINE)
    recipes = [recipe for cell in named if "ccmb" not in cell for recipe in re.findall(r"`([^`]+)`", cell)]
    assert set(recipes) == {path.stem for path in RECIPES.glob("*.yaml")}
    targets = set(re.findall(r"\bmake ([a-z]+)", read(name)))
    assert targets == {"demo", "test"}
    assert targets <= set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))


# A decoder ranks in the place of cross encoders.
FROZEN = ("flickr8k-cn-warm", "flickr8k-multilingual", "flickr8k-zh-only", "flickr8k-en-only")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_one_of_pretraining(path):
    without_cross_encoders = path.stem in FROZEN
    on = ["gcpr"] if without_cross_encoders else ["gcpr", "fgr", "mlm", "tgd", "fgd"]
    assert load_recipe(PretrainRecipe, path).objectives.on() == on


@pytest.mark.parametrize("name", READMES)
def test_the_line_of_own_data_is_read_without_naming_its_field(name, tmp_path):
    [line] = blocks(name, "json")
    (tmp_path / "pairs.jsonl").write_text(line, encoding="utf-8")
    [sample] = read_pairs(tmp_path / "pairs.jsonl", "train")
    assert list(sample.texts) == json.loads(line)["texts"]


@pytest.mark.parametrize("name", READMES)
def test_the_line_of_labelled_pairs_is_read(name, tmp_path):
    [line] = blocks(name, "jsonl")
    (tmp_path / "labelled.jsonl").write_text(line, encoding="utf-8")
    [sample] = read_labelled_pairs(tmp_path / "labelled.jsonl", "train")
    assert (label_of(sample), list(sample.texts)) == (json.loads(line)["label"], [json.loads(line)["text"]])


def test_the_python_example_runs(tmp_path):
    [example] = blocks("README.md", "python")
    model = tmp_path / "model"
    tiny_model().save_pretrained(model)
    tiny_processor().save_pretrained(model)
    replaced = example.replace("quickstart/run", str(model))
    for name, image in zip(("a.jpg", "b.jpg"), tiny_images(2), strict=True):
        image.save(tmp_path / name)
        replaced = replaced.replace(f'"{name}"', repr(str(tmp_path / name)))
    assert replaced.count(str(tmp_path)) == 7
    values: dict[str, object] = {}
    exec(replaced, values)
    assert values["best"].match_score is not None
    assert len(values["scores"]) == 2
    assert values["embeds"].shape == (2, 16)
