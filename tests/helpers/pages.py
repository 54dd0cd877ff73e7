"""The pages of the documentation, and the commands in them."""

import re
import shlex
from pathlib import Path

import typer

from ccmb.cli import main as cli

ROOT = Path(__file__).parents[2]


PAGES = ("docs/r2d2.md", "docs/r2d2.zh.md")


TUNING_PAGES = ("docs/finetuning.md", "docs/finetuning.zh.md")


CAPTION_PAGES = ("docs/captioning.md", "docs/captioning.zh.md")


GENERATION_PAGES = ("docs/generation.md", "docs/generation.zh.md")


SEARCH_PAGES = ("docs/search.md", "docs/search.zh.md")


SERVING_PAGES = ("docs/serving.md", "docs/serving.zh.md")


TESTING_PAGES = ("docs/testing.md", "docs/testing.zh.md")


CORPUS_PAGES = ("docs/corpus.md", "docs/corpus.zh.md")


PROGRAM = typer.main.get_command(cli.app)


# Those of a group by both words, such as `data verify`.
VERBS = {
    f"{name} {inner}".strip(): command
    for name, group in PROGRAM.commands.items()
    for inner, command in getattr(group, "commands", {"": group}).items()
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", read(name), re.DOTALL)


def parse(line: str) -> tuple[str, dict[str, object]]:
    """Verb and arguments of a command line.

    Raises:
        Exception: of the command line, where verb, option or value does not exist.
    """
    words = shlex.split(line)
    words = words[next(index for index, word in enumerate(words) if word.endswith("ccmb")) + 1 :]
    length = 1 if words[0] in VERBS else 2
    verb = " ".join(words[:length])
    return verb, VERBS[verb].make_context(verb, words[length:]).params
