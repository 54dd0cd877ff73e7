"""`ccmb VERB`: the command line. Heavy libraries load inside the verbs, so that `ccmb --help` answers at once."""

from __future__ import annotations

import os
import sys

import typer

from ccmb.cli.ablate import ablate
from ccmb.cli.benchmark import benchmark, leaderboard
from ccmb.cli.caption import caption
from ccmb.cli.convert import calibrate, convert
from ccmb.cli.corpus.build import corpus_app
from ccmb.cli.data import data_app
from ccmb.cli.evaluate import evaluate, transfer
from ccmb.cli.export import export
from ccmb.cli.finetune import finetune, mix
from ccmb.cli.generate import generate
from ccmb.cli.match import classify, match
from ccmb.cli.pretrain import pretrain, quickstart
from ccmb.cli.rankings import rank, rank_passages, score
from ccmb.cli.runs import doctor, models, presets, runs
from ccmb.cli.search import index, search
from ccmb.cli.serve import serve
from ccmb.core.errors import CcmbError, Stopped
from ccmb.core.logs import lines_on_stderr
from ccmb.core.terminal import guarded, visible_line

# Of libraries, read when they are first imported, which only the verbs do; what a user has set stays.
SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin take the core from whoever works
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DAFT_ANALYTICS_ENABLED": "0",  # no telemetry
    "DAFT_PROGRESS_BAR": "0",
}

app = typer.Typer(
    name="ccmb",
    help="Chinese image-text work in one package: pre-train R2D2, measure it, search with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app)
app.add_typer(corpus_app)

app.command()(quickstart)
app.command()(pretrain)
app.command()(ablate)
app.command()(finetune)
app.command()(mix)
app.command()(doctor)
app.command()(runs)
app.command()(presets)
app.command()(models)
app.command()(convert)
app.command()(calibrate)
app.command()(match)
app.command()(classify)
app.command()(caption)
app.command()(export)
app.command()(generate)
app.command()(evaluate)
app.command()(transfer)
app.command()(benchmark)
app.command()(leaderboard)
app.command()(rank)
app.command("rank-passages")(rank_passages)
app.command()(score)
app.command()(index)
app.command()(search)
app.command()(serve)


def main() -> None:
    """Entry point: user errors become one line and an exit code of 1 or 2."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if "--help" in sys.argv:
        _run()  # its colours are our own
        return
    os.environ.setdefault(
        "_TYPER_FORCE_DISABLE_TERMINAL", "1"
    )  # nor does Typer colour usage errors where CI asks it to
    with guarded(), lines_on_stderr():
        _run()


def _run() -> None:
    try:
        app(standalone_mode=True)
    except Stopped as stopped:
        if os.environ.get("RANK", "0") != "0":  # all processes of a run stop together, and one says so
            raise SystemExit(stopped.exit_code) from None
        _fail(stopped)
    except CcmbError as error:
        _fail(error)


def _fail(error: CcmbError) -> None:
    print(f"ccmb: {visible_line(error)}", file=sys.stderr)
    raise SystemExit(error.exit_code)


if __name__ == "__main__":
    main()
