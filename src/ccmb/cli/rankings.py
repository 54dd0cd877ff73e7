"""The verbs about ranked lists: `ccmb rank` writes them, `ccmb score` measures them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ccmb.cli.common.options import ImagesOption, JsonFlag, ModelOption, RankerOption, TextFieldOption, print_result


def rank(
    model: ModelOption,
    data: Annotated[str, typer.Option("--data", "-d", help="NAME=FOLDER of a published set, or NAME=pairs.jsonl.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the files go.")] = Path("rankings"),
    split: Annotated[str, typer.Option(help="Of the data; one whose truth is hidden is ranked too.")] = "test",
    images: ImagesOption = None,
    text_field: TextFieldOption = None,
    ranker: RankerOption = None,
    depth: Annotated[
        int, typer.Option("--rerank-k", "--depth", min=1, help="Candidates that the second stage ranks.")
    ] = 128,
    count: Annotated[int, typer.Option("--top", min=1, help="Images of a text in a run.")] = 1000,
    as_json: JsonFlag = False,
) -> None:
    """Rank a set's images for its texts, and write TREC runs of both stages, qrels, and MUGE's submission.

    Example: ccmb rank --model runs/flickr8k --data muge=downloads/MUGE --split test --out rankings
    """
    from ccmb.inference.models.open_model import open_model, with_ranker
    from ccmb.tasks.rankings.rank import open_asked, rank_set

    asked = open_asked(data, split, text_field or ["texts"], images)
    opened = open_model(model)
    opened = opened if ranker is None else with_ranker(opened, ranker)
    written = rank_set(opened, asked, out, depth, count)
    print_result([str(path) for path in written], as_json, "\n".join(map(str, written)))


def score(
    run: Annotated[Path, typer.Argument(help="A TREC run, or T2Ranking's: query, document, rank and maybe score.")],
    qrels: Annotated[Path, typer.Option("--qrels", help="The truth: TREC's qrels, or query and document.")],
    against: Annotated[Path | None, typer.Option(help="Another run, for paired differences.")] = None,
    relevant_from: Annotated[
        int, typer.Option(min=1, help="Least grade that is relevant, but for nDCG; T2Ranking's retrieval takes 2.")
    ] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Measure ranked lists against graded truth: MRR@10, nDCG, MAP, recall over queries (macro) and in all (micro).

    Example: ccmb score rankings/muge.val.ranking.trec --qrels rankings/muge.val.qrels
    """
    from ccmb.tasks.rankings.files import read_qrels, read_run
    from ccmb.tasks.rankings.report import score_run

    other = None if against is None else read_run(against)
    report = score_run(read_run(run), read_qrels(qrels), other, relevant_from)
    print_result(report, as_json, "\n".join(_lines(report)))


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['queries']} queries; {report['missing_queries']} of them are not in the run, and count as 0"]
    if report["unjudged_queries"]:
        lines.append(f"{report['unjudged_queries']} queries of the run have no truth, and are left out")
    difference = report.get("difference", {})
    for name, metric in report["metrics"].items():
        line = f"{name:18} {metric['value']:.4f}  [{metric['low']:.4f}, {metric['high']:.4f}]"
        if name in difference:
            gap = difference[name]
            line += f"   {gap['value']:+.4f}  [{gap['low']:+.4f}, {gap['high']:+.4f}]"
        lines.append(line)
    return lines
