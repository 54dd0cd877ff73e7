"""`ccmb corpus annotate export|import`: pairs of a corpus for annotators, and their answers as data sets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ccmb.cli.common.options import JsonFlag, print_result

annotate_app = typer.Typer(
    name="annotate",
    help="Give pairs of a corpus to annotators, and turn their answers into data sets.\n\n"
    "Example: ccmb corpus annotate export zero --out round-1\n\n"
    "Example: ccmb corpus annotate import round-1 answers.json --out sets",
    no_args_is_help=True,
)


@annotate_app.command(name="export")
def export_round(
    corpus: Annotated[Path, typer.Argument(help="The folder of a corpus.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for Label Studio's tasks and images.")],
    length: Annotated[
        Literal["short", "long"], typer.Option(help="short: queries (IQM, IQR); long: captions, titles, contents.")
    ] = "short",
    pairs: Annotated[int, typer.Option(min=0, help="Pairs to label; half are positives, half hard negatives.")] = 1000,
    captions: Annotated[int, typer.Option(min=0, help="Images to describe by a caption.")] = 0,
    gold: Annotated[int, typer.Option(min=0, help="Clear cases among the pairs, to check annotators.")] = 50,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A model that finds the hard negatives; by default shared words do."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds sample equal tasks.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Sample tasks for annotators, and write them for Label Studio.

    Example: ccmb corpus annotate export zero --pairs 2000 --gold 100 --out round-1
    """
    from ccmb.cli.corpus.common import need_extra, open_scorer

    need_extra()
    from ccmb.corpus.annotation.label_studio import CONFIG, TASKS, export_tasks, needs
    from ccmb.corpus.annotation.tasks import sample_tasks

    tasks = sample_tasks(
        corpus,
        length=length,
        pairs=pairs,
        captions=captions,
        gold=gold,
        seed=seed,
        scorer=open_scorer(model) if model else None,
    )
    export_tasks(corpus, tasks, out)
    text = f"{out}: {len(tasks)} tasks; import {TASKS} into a project of Label Studio with {CONFIG}"
    report = {"tasks": len(tasks), "folder": str(out), "needs": needs(out)}
    print_result(report, as_json, "\n".join([text, *needs(out)]))


@annotate_app.command(name="import")
def import_round(
    exported: Annotated[Path, typer.Argument(help="The folder of annotate export.")],
    answers: Annotated[list[Path], typer.Argument(help="Label Studio's JSON exports, of all rounds.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the data sets go.")],
    gold_share: Annotated[
        float, typer.Option(min=0, max=1, help="Minimum share of correct gold questions of a trusted annotator.")
    ] = 0.7,
    votes: Annotated[int, typer.Option(min=1, help="Answers that a pair needs.")] = 3,
    majority: Annotated[float, typer.Option(min=0, max=1, help="Minimum share of the votes for a decision.")] = 0.66,
    as_json: JsonFlag = False,
) -> None:
    """Check annotators by gold questions, count votes, write ICM, IQM, ICR and IQR, and prepare another round.

    Example: ccmb corpus annotate import round-1 answers.json --out sets
    """
    from ccmb.cli.corpus.common import need_extra

    need_extra()
    from ccmb.core.files import write_json
    from ccmb.corpus.annotation.datasets import write_sets
    from ccmb.corpus.annotation.label_studio import read_answers, read_tasks, write_tasks
    from ccmb.corpus.annotation.votes import Trust, count_votes

    tasks = read_tasks(exported)
    given = read_answers(answers, tasks)
    result = count_votes(tasks, given, Trust(gold_share=gold_share, votes=votes, majority=majority))
    lines = write_sets(tasks, result, exported, out)
    write_tasks(exported / "next-round.json", result.undecided)
    report = {
        "decided": len(result.labels), "undecided": len(result.undecided), "captions": len(result.captions),
        "fleiss_kappa": _number(result.kappa), "krippendorff_alpha": _number(result.alpha), "lines": lines,
        "unnamed_answers": sum(not answer.named for answer in given),
        "annotators": [asdict(one) | {"with_majority": _number(one.with_majority)} for one in result.annotators],
    }  # fmt: skip
    write_json(out / "report.json", report)
    summary = [f"{name}: {count} lines" for name, count in lines.items()]
    summary += [
        f"{annotator.name}: {annotator.answers} answers, {annotator.gold_right} of {annotator.gold_answers} gold right"
        + ("" if annotator.trusted else "; not trusted, left out")
        for annotator in result.annotators
    ]
    if report["unnamed_answers"]:
        summary.append(
            f"{report['unnamed_answers']} answers name no annotator; in each task they count for unknown-1, ..."
        )
    summary.append(
        f"kappa {result.kappa:.3f}, alpha {result.alpha:.3f}; {len(result.undecided)} tasks for another round"
    )
    print_result(report, as_json, "\n".join(summary))


def _number(value: float) -> float | None:
    """Round a number; NaN, which JSON does not have, becomes None."""
    return None if value != value else round(value, 4)
