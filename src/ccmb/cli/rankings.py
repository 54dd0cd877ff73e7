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


def rank_passages(
    passages: Annotated[Path, typer.Option(help="The texts to search in, `id<tab>text`, as T2Ranking's.")],
    queries: Annotated[Path, typer.Option(help="The texts to search for, `id<tab>text`.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="What searches: any model that embeds texts, by name.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the runs go.")] = Path("rankings"),
    candidates: Annotated[
        Path | None, typer.Option(help="A run whose candidates are ranked, instead of a search by --model.")
    ] = None,
    ranker: Annotated[str | None, typer.Option(help="A second stage: cross_encoder:NAME, which reads texts.")] = None,
    depth: Annotated[
        int, typer.Option("--rerank-k", "--depth", min=1, help="Candidates that the second stage ranks.")
    ] = 128,
    count: Annotated[int, typer.Option("--top", min=1, help="Passages of a query in a run.")] = 1000,
    context_length: Annotated[int | None, typer.Option(min=3, help="Longest text in tokens.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rank passages for queries, texts on both sides, by any model of texts; write TREC runs, which `score` measures.

    Example: ccmb rank-passages --model sentence_transformers:BAAI/bge-m3 --passages collection.tsv --queries dev.tsv
    """
    from ccmb.core.errors import UsageError
    from ccmb.inference.models.cross_encoder import CROSS_ENCODER, CrossEncoderRanker
    from ccmb.inference.models.open_model import label_and_source, open_text_model
    from ccmb.tasks.rankings import passages as texts
    from ccmb.tasks.rankings.files import read_run

    label, source = (None, "") if ranker is None else label_and_source(ranker)
    if label is not None and not source.startswith(CROSS_ENCODER):
        raise UsageError(f"--ranker {ranker}: texts are ranked by {CROSS_ENCODER}NAME")
    if candidates is not None and (label is None or model is not None):
        raise UsageError(
            "--candidates are ranked by --ranker, in the place of a search by --model; give --ranker alone"
        )
    asked, collection, name = texts.read_texts(queries), texts.read_texts(passages), queries.stem
    written = []
    if candidates is None:
        if model is None:
            raise UsageError("nothing to search with; give --model, or a run as --candidates")
        encoder = open_text_model(model, context_length)
        run, tag = texts.retrieve(encoder, asked, collection, count), encoder.name
        written.append(texts.write_stage(out, name, "pre_ranking", run, tag))
    else:
        run, tag = texts.candidates_of(read_run(candidates), asked, collection), candidates.stem
    if label is not None:
        second = CrossEncoderRanker(label, source.removeprefix(CROSS_ENCODER))
        run = texts.rerank(second, asked, collection, candidates=run, depth=depth, out=out)
        written.append(texts.write_stage(out, name, "ranking", run, f"{tag}+{label}"))
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
