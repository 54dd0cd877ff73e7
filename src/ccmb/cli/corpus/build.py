"""`ccmb corpus VERB`: from click logs and pages to a corpus in shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccmb.cli.common.options import JsonFlag, print_result
from ccmb.cli.corpus.annotate import annotate_app
from ccmb.cli.corpus.common import need_extra, open_scorer
from ccmb.core.errors import UsageError
from ccmb.core.json_values import json_values

if TYPE_CHECKING:
    from ccmb.corpus.assembly.held_out import HeldOutImages

corpus_app = typer.Typer(name="corpus", help="From click logs and pages to a corpus in shards.", no_args_is_help=True)

corpus_app.add_typer(annotate_app)

Sources = Annotated[list[str] | None, typer.Option(help="Files, folders, globs or URLs; may be given several times.")]
CorpusArgument = Annotated[Path, typer.Argument(help="The folder of a corpus.")]

ExcludeOption = Annotated[
    list[str] | None, typer.Option(help="Pattern of input files to pass over, such as '*.bak.jsonl', tmp or 2019/raw.")
]
TestImages = Annotated[
    list[str] | None,
    typer.Option("--test-images", "--test-pictures", help="Folder or tar of images that the corpus must not hold."),
]
TestSets = Annotated[
    list[str] | None,
    typer.Option(help="NAME:FOLDER of a downstream set whose val and test the corpus must not hold."),
]
ScoreModel = Annotated[
    str | None, typer.Option(help="A run, folder or hub id of R2D2 or Chinese-CLIP that scores each pair.")
]
RayOption = Annotated[str | None, typer.Option(help="Address of a Ray cluster that works on the tables.")]
RetryFlag = Annotated[
    bool, typer.Option("--retry-failed", help="Fetch links again that failed but may succeed another day.")
]
ProxyFlag = Annotated[
    bool, typer.Option("--proxy-from-environment", help="Fetch through HTTP_PROXY, HTTPS_PROXY and NO_PROXY.")
]


@corpus_app.command()
def build(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe: zero.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes to the recipe")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the corpus.")] = Path("corpus"),
    impressions: Sources = None,
    pages: Sources = None,
    links: Sources = None,
    test_texts: Sources = None,
    exclude: ExcludeOption = None,
    test_images: TestImages = None,
    test_set: TestSets = None,
    score_model: ScoreModel = None,
    ray: RayOption = None,
    retry_failed: RetryFlag = False,
    proxy_from_environment: ProxyFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Build a corpus from logs, pages and link lists; after any stop run it again to go on.

    Impressions: query, image_url, page_url, position, clicked, visitor, time. Pages: Url, Title, Content, ImageUrl,
    ImageKey, ImageQuery. Links: url and caption. JSON or Parquet; links also CSV and TSV. Test texts: any of these.

    Example: ccmb corpus build zero --impressions logs --pages pages.jsonl --out zero

    Example: ccmb corpus build zero pairs.min_score=0.26 --links 'wukong/*.csv' --test-set muge:downloads/muge
    """
    need_extra()
    from ccmb.core.config.given_keys import refuse_keys
    from ccmb.core.config.recipe_files import load_recipe
    from ccmb.core.signals import orderly_end
    from ccmb.corpus.assembly.build import Extras, build_corpus
    from ccmb.corpus.assembly.decontamination import open_test_images, open_test_sets
    from ccmb.corpus.assembly.recipe import ZeroRecipe, find_corpus_recipe
    from ccmb.corpus.inputs.tables import Inputs

    if not (impressions or pages or links):
        raise UsageError("give --impressions, --pages or --links")
    through = ["download.network.proxy_from_environment=true"] if proxy_from_environment else []
    typed = load_recipe(ZeroRecipe, find_corpus_recipe(recipe), [*(overrides or []), *through])
    if not impressions:
        refuse_keys(typed.clicks, "clicks.", "of --impressions; give them")
    if not score_model:
        refuse_keys(typed.score, "score.", "of the model of --score-model; give one")
    images: list[HeldOutImages] = open_test_images(test_images or [])
    texts = list(test_texts or [])
    if test_set:
        held_out, files = open_test_sets(test_set, out / "work")
        images, texts = images + held_out, texts + files
    inputs = Inputs(
        impressions=impressions or [], pages=pages or [], links=links or [], test_texts=texts, exclude=exclude or []
    )
    scorer = open_scorer(score_model) if score_model else None
    with orderly_end():
        manifest = build_corpus(inputs, typed, out, Extras(ray, images, scorer, retry_failed))
    say_corpus(out, manifest, as_json)


@corpus_app.command()
def verify(corpus: CorpusArgument, as_json: JsonFlag = False) -> None:
    """Check a whole corpus: files against the manifest, rows of the index against the shards, every image decoded.

    Each problem comes with its fix. Exits with 1 if there is one.

    Example: ccmb corpus verify zero
    """
    need_extra()
    from ccmb.corpus.analysis.verify import verify_corpus

    check = verify_corpus(corpus)
    lines = [f"{problem.file}: {problem.what}; {problem.fix}" for problem in check.problems]
    counts = f"{check.files:,} files, {check.images:,} images, {check.pairs:,} pairs"
    print_result(
        json_values(check, images="pictures", fix="mend"),
        as_json,
        "\n".join([*lines, f"{counts}; {len(lines) or 'no'} problems"]),
    )
    if lines:
        raise typer.Exit(1)


@corpus_app.command()
def sample(
    corpus: CorpusArgument,
    share: Annotated[float, typer.Option(help="Share of the images of the whole corpus, in (0, 1].")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.")],
    as_json: JsonFlag = False,
) -> None:
    """Write a random subset as a corpus; smaller subsets lie in larger ones, and every machine samples the same.

    Example: ccmb corpus sample zero --share 0.1 --out zero-sub
    """
    need_extra()
    from ccmb.corpus.analysis.subset import sample_corpus

    say_corpus(out, sample_corpus(corpus, share, out), as_json)


def say_corpus(out: Path, manifest: dict[str, Any], as_json: bool) -> None:
    text = f"{out}: {manifest['pictures']:,} images, {manifest['pairs']:,} pairs in {manifest['shards']:,} shards"
    print_result({name: value for name, value in manifest.items() if name != "files"}, as_json, text)


@corpus_app.command()
def stats(
    corpus: CorpusArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; by default stats.html in the corpus's folder.")
    ] = None,
    images: Annotated[int, typer.Option("--images", "--pictures", min=0, help="Images in the random sample.")] = 24,
    as_json: JsonFlag = False,
) -> None:
    """Write a page: the funnel, histograms of lengths, click rates and sizes, domains, and a random sample.

    Example: ccmb corpus stats zero --json
    """
    need_extra()
    from ccmb.corpus.analysis.page import write_corpus_page
    from ccmb.corpus.analysis.statistics import statistics

    page, metrics = out or corpus / "stats.html", statistics(corpus)
    write_corpus_page(corpus, metrics, page, images)
    lines = [
        f"{step['name']:>20}  {step['rows']:>12,} {step['unit']:<12} {step['kept']:>12,} kept  "
        + ", ".join(f"{reason} {count:,}" for reason, count in step["dropped"].items())
        for step in metrics["funnel"]
    ]
    print_result(metrics, as_json, "\n".join([*lines, f"page: {page}"]))


@corpus_app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("corpus-demo"),
    images: Annotated[int, typer.Option("--images", "--pictures", min=20, help="Images of the simulated web.")] = 400,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also pre-train on the corpus and on as many raw pairs, and compare.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a simulated web from end to end, offline: logs, a server with faults, the build, and its recall against the
    ground truth: false pairs, near-duplicates, spam, and good pairs.

    Example: ccmb corpus demo --out corpus-demo
    """
    need_extra()
    from ccmb.core.signals import orderly_end
    from ccmb.demos.corpus_demo import closing_words, run_demo

    with orderly_end():
        report = run_demo(out, images, compare)
    print_result(report, as_json, closing_words(out, report))
