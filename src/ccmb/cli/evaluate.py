"""`ccmb evaluate`: one model on one set, of retrieval, matching, classification, captioning or generation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccmb.cli.caption import (
    BeamsOption,
    CandidatesOption,
    CaptionsFlag,
    DecodeOption,
    MaxLengthOption,
    RerankOption,
    candidates_of,
    refuse_undecoded,
)
from ccmb.cli.common.given import given, need_second_stage, refuse_given, refuse_unread
from ccmb.cli.common.options import (
    CascadeOption,
    ConventionOption,
    ImagesOption,
    ModelOption,
    PrecisionOption,
    TextFieldOption,
    say_unreadable,
)
from ccmb.cli.common.tables import (
    captioning_table,
    classification_table,
    generation_table,
    matching_table,
    retrieval_table,
)
from ccmb.cli.generate import (
    BestOfOption,
    FeaturesOption,
    GenerateFlag,
    GuidanceOption,
    JudgeOption,
    SeedOption,
    StepsOption,
)
from ccmb.cli.match import CLASSES_HELP, TemplatesOption
from ccmb.core.choices import Convention, Precision, RankingRule
from ccmb.core.errors import UsageError

if TYPE_CHECKING:
    from ccmb.data.sample import Sample

# What is measured, in words that messages use, and which options each reads; the others would do nothing.
PAIRS, LABELLED, CLASSES = "retrieval", "labelled pairs", "--classes"
CAPTIONS, PAINTED = "--captions", "--generate"
READS = {
    PAIRS: (
        "images", "split", "text_field", "depth", "limit_texts", "ranking_rule", "precision", "cascade", "convention",
    ),
    LABELLED: ("images", "split", "fit_split"),
    CLASSES: ("classes", "templates", "split", "depth", "ranking_rule"),
    CAPTIONS: (
        "images", "split", "text_field", "ranking_rule", "limit", "decode", "beams", "candidates", "rerank",
        "max_length", "seed",
    ),
    PAINTED: (
        "images", "split", "text_field", "limit", "steps", "guidance", "best_of", "seed", "judge", "features",
    ),
}  # fmt: skip
SECOND_STAGE = ("depth", "ranking_rule", "precision", "cascade")


def evaluate(
    context: typer.Context,
    model: ModelOption,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="A file of pairs or of labelled pairs, a shard or a folder of shards, or icm=FOLDER or iqm=FOLDER; "
            "with --classes a folder or tar of one folder a class.",
        ),
    ],
    images: ImagesOption = None,
    split: Annotated[str, typer.Option(help="Which split of the pairs to score; with --classes, its folder.")] = "test",
    text_field: TextFieldOption = None,
    depth: Annotated[
        int | None,
        typer.Option(
            min=1, help="Candidates of the first stage that the second one ranks; by default 128, with --classes none."
        ),
    ] = None,
    limit_texts: Annotated[int | None, typer.Option(min=1, help="Use only the first N texts of each picture.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", "-c", help=f"Measure zero-shot classification. {CLASSES_HELP}")
    ] = None,
    templates: TemplatesOption = "all",
    fit_split: Annotated[
        str | None,
        typer.Option(
            help="Of labelled pairs: the split that a threshold and a temperature are fitted on; by default the other "
            "half of the pictures."
        ),
    ] = None,
    ranking_rule: Annotated[
        RankingRule | None,
        typer.Option(help="Score the second stage by this rule instead of the model's own."),
    ] = None,
    precision: PrecisionOption = "fp32",
    cascade: CascadeOption = None,
    convention: ConventionOption = None,
    captions: CaptionsFlag = False,
    decode: DecodeOption = "beam",
    beams: BeamsOption = 5,
    candidates: CandidatesOption = None,
    rerank: RerankOption = True,
    max_length: MaxLengthOption = None,
    generate: GenerateFlag = False,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Of --captions and --generate: use the first N pictures alone.")
    ] = None,
    steps: StepsOption = 20,
    guidance: GuidanceOption = 3.0,
    best_of: BestOfOption = 1,
    seed: SeedOption = 0,
    judge: JudgeOption = None,
    features: FeaturesOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON to this file.")] = None,
) -> None:
    """Measure both stages of retrieval on own pairs, matching on labelled ones, zero-shot classification on
    folders, captions, or pictures painted from texts.

    Example: ccmb evaluate --model runs/flickr8k --data flickr8k-cn/captions.jsonl --split val --text-field captions

    Example: ccmb evaluate --model runs/flickr8k --data icm=downloads/ICM --split val

    Example: ccmb evaluate --model runs/flickr8k --data imagenet/val --classes imagenet

    Example: ccmb evaluate --model runs/captions --data mydata/pairs.jsonl --split val --captions

    Example: ccmb evaluate --model runs/pictures --data mydata/pairs.jsonl --split val --generate --best-of 4
    """
    from ccmb.core.files import write_json
    from ccmb.data.labelled_pairs import is_labelled
    from ccmb.data.seen_images import seen_warning
    from ccmb.data.shards.shard_set import is_shards

    name, _, folder = ("", "", data) if Path(data).exists() else data.rpartition("=")
    path = Path(folder)
    if generate and captions:
        raise UsageError("--generate and --captions are two tasks; give one of them")
    if generate:
        refuse_unread(context, PAINTED, READS)
        painting = {"steps": steps, "guidance": guidance, "best_of": best_of, "seed": seed}
        report = _of_pictures(context, model, data, images, split, text_field, limit, judge, features, painting)
        table = generation_table(report["generation"])
    elif captions:
        refuse_unread(context, CAPTIONS, READS)
        refuse_undecoded(context, decode)
        if not rerank:
            refuse_given(context, "of re-ranking, which --no-rerank leaves out", "ranking_rule")
        count = candidates_of(decode, beams, candidates, rerank)
        decoding = {"decode": decode, "beams": beams, "candidates": count, "seed": seed}
        how = (ranking_rule, rerank, max_length, decoding)
        report = _of_captions(context, model, data, images, split, text_field, limit, *how)
        table = captioning_table(report["captioning"])
    elif classes:
        refuse_unread(context, CLASSES, READS)
        if depth is None:
            refuse_given(context, "of the second stage, which --depth lets rank classes", "ranking_rule")
        path = _folder_of_split(path, split) if given(context, "split") else path
        report = _on_classes(model, path, classes, templates, depth, ranking_rule)
        table = classification_table(report["classification"])
    elif name or (path.is_file() and not is_shards(path) and is_labelled(path)):
        refuse_unread(context, LABELLED, READS)
        report = _on_labels(model, name, path, images, split, fit_split)
        table = matching_table(report["matching"])
    else:
        refuse_unread(context, PAIRS, READS)
        fields, options = text_field or ["texts"], (ranking_rule, precision, cascade, convention or "equal_texts")
        report = _on_pairs(context, model, path, images, split, fields, depth, limit_texts, *options)
        table = retrieval_table(report["retrieval"])
    if json_file:
        write_json(json_file, report)
    say_unreadable(report["unreadable"])
    typer.echo(table)
    if line := seen_warning(report.get("seen")):
        typer.echo(line)
    if "minimal_pairs" in report:
        typer.echo(f"minimal pairs: {json.dumps(report['minimal_pairs'])}")


def _folder_of_split(path: Path, split: str) -> Path:
    """The folder of a split within a folder of such folders.

    Raises:
        UsageError: there is none.
    """
    if not (path / split).is_dir():
        raise UsageError(
            f"--split {split}: {path} has no folder {split} in it; leave it out, or give the folder itself"
        )
    return path / split


def _on_pairs(
    context: typer.Context,
    model: str,
    pairs: Path,
    images: Path | None,
    split: str,
    fields: list[str],
    depth: int | None,
    limit_texts: int | None,
    ranking_rule: RankingRule | None,
    precision: Precision,
    cascade: int | None,
    convention: Convention,
) -> dict[str, Any]:
    from ccmb.data.shards.shard_set import is_shards
    from ccmb.inference.interface import load_network
    from ccmb.inference.stages import RankOptions
    from ccmb.r2d2.modeling import R2D2Model
    from ccmb.tasks.retrieval.evaluate import evaluate as run_evaluation

    shards = is_shards(pairs)
    if shards:
        refuse_given(context, "of pairs; shards hold their pictures and have no splits", "images", "split")
    pictures = pairs if shards else images or folder_for_pairs(pairs)
    network, processor = load_network(model)
    need_second_stage(context, network.can_rank, model, *SECOND_STAGE)
    if precision == "fp32" and not isinstance(network, R2D2Model):
        refuse_given(context, "of networks in torch; an export keeps the one that it was made with", "precision")
    how = (fields, depth or 128, limit_texts, RankOptions(precision, cascade, ranking_rule))
    done = run_evaluation(network, processor, pairs, pictures, split, *how, model, convention)
    return done.report | _seen(model, done.samples)


def _seen(model: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """How many of the images the model was trained on, for a report."""
    from ccmb.data.seen_images import seen_mark
    from ccmb.tasks.common.seen import seen_by

    return {"seen": seen_mark(seen_by(model), [sample.image for sample in samples])}


def _of_captions(
    context: typer.Context,
    model: str,
    data: str,
    images: Path | None,
    split: str,
    fields: list[str] | None,
    limit: int | None,
    ranking_rule: RankingRule | None,
    rerank: bool,
    max_length: int | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    from ccmb.r2d2.generative.captioner import load_captioner
    from ccmb.tasks.captioning.evaluate import evaluate_captions
    from ccmb.tasks.captioning.predict import decoding_for
    from ccmb.tasks.common.datasets import first_pictures, open_set

    refuse_unread_set(context, data)
    found = first_pictures(open_set(data, split, fields or ["texts"], images), limit)
    network, processor = load_captioner(model)
    need_second_stage(context, network.can_rank, model, "ranking_rule")
    decoding = decoding_for(network, max_length, **options)
    report = evaluate_captions(network, processor, found, decoding, rerank, ranking_rule)
    return report | _seen(model, found.samples)


def _of_pictures(
    context: typer.Context,
    model: str,
    data: str,
    images: Path | None,
    split: str,
    fields: list[str] | None,
    limit: int | None,
    judge: str | None,
    features: str | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    from ccmb.r2d2.generative.generator import load_generator
    from ccmb.tasks.common.datasets import first_pictures, open_set
    from ccmb.tasks.generation.evaluate import evaluate_generation
    from ccmb.tasks.generation.features import open_extractor, r2d2_extractor
    from ccmb.tasks.generation.predict import Painting, open_judge

    refuse_unread_set(context, data)
    found = first_pictures(open_set(data, split, fields or ["texts"], images, family="generation"), limit)
    network, processor = load_generator(model)
    judged = open_judge(judge, model, network, processor)
    extractor = open_extractor(features) if features else r2d2_extractor(model, network, processor)
    report = evaluate_generation(network, processor, found, Painting(**options), judged, extractor)
    return report | _seen(model, found.samples)


def _on_labels(
    model: str, name: str, path: Path, images: Path | None, split: str, fit_split: str | None
) -> dict[str, Any]:
    from ccmb.datasets.matching import open_labelled
    from ccmb.inference.interface import load_network
    from ccmb.tasks.matching.evaluate import evaluate_matching

    if fit_split == split:
        raise UsageError(f"--fit-split {fit_split}: the split that is scored; fit on another one, or leave it out")
    if not path.exists():
        raise UsageError(f"--data {name}={path}: no such file or folder")
    labelled = open_labelled(path, split, images, name)
    fit = None if fit_split is None else open_labelled(path, fit_split, images, name)
    return evaluate_matching(*load_network(model), labelled, fit) | _seen(model, labelled[0])


def _on_classes(
    model: str, data: Path, classes: str, templates: str, depth: int | None, ranking_rule: RankingRule | None
) -> dict[str, Any]:
    from ccmb.data.class_names import read_classes
    from ccmb.data.images.source import ImageSource
    from ccmb.inference.interface import load_network
    from ccmb.tasks.classification.evaluate import evaluate_classes
    from ccmb.tasks.classification.prompts import read_templates
    from ccmb.tasks.classification.rerank import r2d2_classifier

    known, prompts, pictures = read_classes(classes), read_templates(templates), ImageSource.open(data)
    network, processor = load_network(model)
    report = evaluate_classes(r2d2_classifier(network, processor, known, prompts, depth, ranking_rule), pictures)
    report["classification"] |= {"class_list": classes, "templates": templates}
    return report | ({} if depth is None else {"ranking_rule": ranking_rule or network.config.ranking_rule})


def refuse_unread_set(context: typer.Context, *data: str) -> None:
    """Refuse text fields where all sets are published ones, which have fields of their own."""
    if all(Path(spec.rpartition("=")[2]).is_dir() for spec in data):
        refuse_given(context, "of own pairs, and does nothing with published sets", "text_field")


def folder_for_pairs(data: Path) -> Path:
    """Where the pictures of a file of pairs are, if nobody says.

    Raises:
        UsageError: it is a folder.
        CcmbError: there are no pictures beside it.
    """
    from ccmb.data.pairs import pictures_beside

    if data.is_dir():
        raise UsageError(f"{data}: a folder; give a pairs.jsonl file, or say with --classes what its folders show")
    return pictures_beside(data)
