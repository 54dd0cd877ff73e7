"""The verbs about an index: `ccmb index` and `ccmb search`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ccmb.cli.common.given import need_second_stage, refuse_given
from ccmb.cli.common.options import (
    CoarseDimOption,
    FastFlag,
    JsonFlag,
    MinProbabilityOption,
    RankerOption,
    RerankKOption,
    print_result,
    say_unreadable,
)
from ccmb.core.json_values import json_values
from ccmb.core.signals import orderly_end
from ccmb.core.terminal import visible_line

if TYPE_CHECKING:
    from ccmb.search.indexing.indexer import IndexReport
    from ccmb.search.query import Hit

IndexOption = Annotated[Path, typer.Option("--index", "-i", help="The index folder.")]
IMAGES_HELP = (
    "Folders, images, globs, tars (shards, also name-{000..123}.tar), Parquet files, URLs, or lists of URLs (.txt); "
    "by default those that the index was made from."
)
GONE_HELP = (
    "Images that are gone from their source; auto removes them unless most of a source's are gone, or their folder "
    "is empty or cannot be read."
)
WHERE_HELP = "Only images such as width>=800, date<2024-05 or 'folder under 2024/夏天'; may be given several times."

OF_INDEXING = ("model", "fields", "gone", "store", "states", "allow_private", "exclude", "fast")

FieldsOption = Annotated[
    Path | None, typer.Option(help='Own fields: JSON lines such as {"name": "a.jpg", "author": "王"}, or Parquet.')
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(help="Pass over what is called so, such as '*.gif', raw or 2019/scans; kept for the next time."),
]
ForgetOption = Annotated[
    list[str] | None, typer.Option(help="Take a folder or file out of the index for good, be it there or not.")
]
StoreOption = Annotated[str | None, typer.Option(help="URI of a Milvus server that holds the vectors of a new index.")]
StatesOption = Annotated[
    float, typer.Option(min=0, help="GiB for token states of images, which make ranking several times faster.")
]
PrivateOption = Annotated[list[str] | None, typer.Option(help="Private address that URLs may lead to.")]
ProxyFlag = Annotated[
    bool, typer.Option("--proxy-from-environment", help="Fetch URLs through HTTP_PROXY, HTTPS_PROXY and NO_PROXY.")
]


def index(
    context: typer.Context,
    images: Annotated[list[str] | None, typer.Argument(help=IMAGES_HELP)] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model, see `ccmb models`; by default the index's own.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The index folder.")] = Path("index"),
    fields: FieldsOption = None,
    gone: Annotated[Literal["auto", "remove", "keep"], typer.Option(help=GONE_HELP)] = "auto",
    exclude: ExcludeOption = None,
    forget: ForgetOption = None,
    store: StoreOption = None,
    states: StatesOption = 0.0,
    allow_private: PrivateOption = None,
    proxy_from_environment: ProxyFlag = False,
    fast: FastFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Encode images into an index; run it again to add new ones, and to take out those that are gone.

    Example: ccmb index ~/Pictures --model quickstart/run --out index
    """
    from ccmb.inference.models.open_model import open_model
    from ccmb.search.index_folder import model_of
    from ccmb.search.indexing.indexer import build_index
    from ccmb.search.indexing.leaving import IndexReport, forget_sources

    if forget and not images:
        refuse_given(context, "of indexing, and --forget alone indexes nothing", *OF_INDEXING)
    forgotten = forget_sources(out, forget) if forget else 0
    if forget and not images:
        report = IndexReport(removed=forgotten)
        print_result(asdict(report), as_json, _summary(out, report))
        return
    if model is None:
        model = str(model_of(out))
    opened = open_model(model, fast=fast)
    need_second_stage(context, opened.can_rank, model, "states")
    with orderly_end():
        report = build_index(
            images or [],
            out,
            opened,
            store=store,
            fields=fields,
            gone=gone,
            states_bytes=int(states * 2**30),
            allow_private=allow_private or (),
            exclude=exclude,
            proxy_from_environment=proxy_from_environment,
        )
    report.removed += forgotten
    say_unreadable(report.unreadable)
    _say_left_out(report, fields)
    print_result(asdict(report), as_json, _summary(out, report))


def _say_left_out(report: IndexReport, fields: Path | None) -> None:
    """Report on stderr what was not indexed, what stays in the index, and how to change that."""
    lines = list(report.away)
    if report.away:
        lines.append("--gone remove takes out what is gone")
    if report.passed_over_line:
        lines.append(report.passed_over_line)
    if unmatched := report.fields_unmatched:
        more = f" and {len(unmatched) - 3:,} more" if len(unmatched) > 3 else ""
        shown = ", ".join(map(repr, unmatched[:3]))
        lines.append(f"{fields}: {len(unmatched):,} names are of no image that was indexed: {shown}{more}")
    for line in lines:
        typer.echo(line, err=True)


def _summary(out: Path, report: IndexReport) -> str:
    counts = f"{report.added} images added, {report.updated} updated, {report.skipped_known} known already"
    lines = [f"{out}: {counts}" + (f", {report.removed} removed" if report.removed else "")]
    if report.kept_gone:
        lines.append(f"{report.kept_gone} are gone from their source and stay: --gone remove takes them out")
    if report.repeated:
        lines.append(f"{report.repeated} files in tars have the name of a later one, which counts in their place")
    for name, groups in (("equal", report.duplicates), ("alike", report.near_duplicates)):
        if groups:
            more = sum(map(len, groups)) - len(groups)
            lines.append(f"{more} images are {name} to others, such as {' and '.join(groups[0][:2])}")
    if report.fields_left_out:
        names = ", ".join(report.fields_left_out)
        lines.append(f"fields left out, not a text of up to 4,096 characters or a number each: {names}")
    return "\n".join(lines)


def search(
    context: typer.Context,
    text: Annotated[str | None, typer.Argument(help="What to look for, in Chinese.")] = None,
    image: Annotated[
        Path | None,
        typer.Option("--picture", "-p", help="Look for images like this one; ranked only if there is a text too."),
    ] = None,
    index: IndexOption = Path("index"),
    model: Annotated[str | None, typer.Option("--model", "-m", help="By default the one that made the index.")] = None,
    ranker: RankerOption = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many images.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="Pass over so many of the best: further pages.")] = 0,
    depth: RerankKOption = 64,
    rank: Annotated[bool, typer.Option("--rank/--no-rank", help="Use the second stage.")] = True,
    min_probability: MinProbabilityOption = None,
    where: Annotated[list[str] | None, typer.Option("--where", "-w", help=WHERE_HELP)] = None,
    budget: Annotated[float | None, typer.Option(help="Seconds for the second stage; it ranks what it can.")] = None,
    collapse: Annotated[bool, typer.Option("--collapse", help="Show near duplicates as one.")] = False,
    coarse_dim: CoarseDimOption = None,
    fast: FastFlag = False,
    sheet: Annotated[Path | None, typer.Option(help="Also draw the hits into this PNG.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find images by Chinese text, or by an image.

    Example: ccmb search "一只红色的小船" --index quickstart/index
    """
    from ccmb.data.images.source import load_image
    from ccmb.search.contact_sheet import contact_sheet
    from ccmb.search.engine import open_engine
    from ccmb.search.filters import parse_condition
    from ccmb.search.query import SearchQuery, check_query

    second_stage = "depth", "budget"
    if not rank:
        refuse_given(context, "of the second stage, which --no-rank leaves out", *second_stage, "ranker")
    elif text is None:
        refuse_given(context, "of the second stage, which ranks by a text alone", *second_stage, "rank", "ranker")
    query = SearchQuery(
        text, load_image(image) if image else None, k=k, offset=offset, depth=depth, rank=rank, budget=budget,
        min_probability=min_probability, where=tuple(map(parse_condition, where or ())), collapse=collapse,
    )  # fmt: skip
    check_query(query)  # before the model is loaded in vain
    with open_engine(index, model, fast, ranker=ranker, coarse_dim=coarse_dim) as engine:
        asked = second_stage + (("rank",) if rank else ())
        need_second_stage(context, engine.model.can_rank, str(model or "the index's model"), *asked)
        answer = engine.search(query)
    if sheet:
        contact_sheet(answer.hits, sheet)
    if answer.unknown:
        typer.echo(f"the model knows few words or none of {text!r}: the order of the images means little", err=True)
    if answer.cut:
        typer.echo("this is the end of what a Milvus server gives for one query; there may be more images", err=True)
    if answer.partial:
        typer.echo(
            f"the budget was up after {answer.ranked} candidates; those after them are in order of cosine", err=True
        )
    lines = [_line(position, hit) for position, hit in enumerate(answer.hits, start=offset + 1)]
    values = [{**json_values(hit, first_stage_rank="place"), "source": str(hit.source)} for hit in answer.hits]
    print_result(values, as_json, "\n".join(lines) or ("nothing found" if min_probability is None else "no match"))


def _line(rank: int, hit: Hit) -> str:
    return (
        f"{rank:3d}  {hit.score:.3f}  cosine {hit.cosine:.3f}"
        + ("" if hit.match is None else f"  match {hit.match:.3f}")
        + ("" if hit.probability is None else f"  probability {hit.probability:.3f}")
        + f"  {visible_line(hit.name)}"
        + (f"  (and {len(hit.copies)} near duplicates)" if hit.copies else "")
        + ("  (gone or unreadable)" if hit.missing else "")
    )
