"""The generative half of `ccmb quickstart --full`: the pre-trained model learns to describe and to generate images.

Each part leaves a run folder and one JSON file with its metrics and examples, so that the page needs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccmb.core.files import write_json

if TYPE_CHECKING:
    from ccmb.scenes.scene import Split
    from ccmb.tasks.finetuning.recipe import FinetuneRecipe

SHOWN = 6  # images with captions on the page, and texts with generated images


@dataclass(frozen=True, slots=True)
class Generative:
    """The size of the generative half: training and measuring.

    Attributes:
        caption_changes, paint_changes: `key=value` changes to the recipes drawn-caption and drawn-generation.
        close_ups: number of drawn close-ups to train the generator on.
        images: number of held-out images to describe, and of held-out texts to generate images for.
        best_of: generated images of each text, among which the match score chooses.
    """

    caption_changes: tuple[str, ...] = ("training.steps=900",)
    paint_changes: tuple[str, ...] = ()
    close_ups: int = 20_000
    images: int = 200
    best_of: int = 4


def describe_images(run: Path, corpus: Path, out: Path, size: Generative, path: Path) -> None:
    """Train a captioner in the folder `out`, and write its captions of held-out images to `path`.

    Args:
        run: the pre-trained model.
        corpus: drawn scenes.
    """
    from ccmb.r2d2.generative.captioner import load_captioner
    from ccmb.tasks.captioning.evaluate import caption_dataset, captioning_report
    from ccmb.tasks.captioning.predict import decoding_for
    from ccmb.tasks.common.datasets import first_images, open_set
    from ccmb.tasks.finetuning.run import finetune

    finetune(_recipe("drawn-caption", run, corpus, size.caption_changes), out)
    model, processor = load_captioner(out)
    held_out = first_images(open_set(str(corpus / "pairs.jsonl"), "test", ["captions"]), size.images)
    options = decoding_for(model)
    written = caption_dataset(model, processor, held_out, options, rerank=True)
    shown = [
        {"picture": sample.image, "text": text, "truth": references[0]}
        for sample, text, references in zip(held_out.samples, written.chosen, written.references, strict=True)
    ]
    write_json(path, {"figures": captioning_report(written, options, True), "shown": shown[:SHOWN]})


def paint_images(run: Path, close_ups: Path, out: Path, size: Generative, path: Path, seed: int) -> None:
    """Draw close-ups, train a generator in the folder `out`, and write its results for held-out texts to `path`.

    Args:
        run: the pre-trained model.
    """
    from ccmb.inference.pipeline import Pipeline
    from ccmb.r2d2.generative.generator import load_generator
    from ccmb.scenes.close_ups import write_close_ups
    from ccmb.tasks.common.datasets import open_set
    from ccmb.tasks.finetuning.run import finetune
    from ccmb.tasks.generation.evaluate import generation_report, prompts_of
    from ccmb.tasks.generation.features import r2d2_extractor
    from ccmb.tasks.generation.finetune import image_side
    from ccmb.tasks.generation.grid import save_images
    from ccmb.tasks.generation.predict import SamplingOptions, paint_texts

    recipe = _recipe("drawn-generation", run, close_ups, size.paint_changes)
    counts: dict[Split, int] = {"train": size.close_ups, "val": size.images, "test": size.images}
    write_close_ups(close_ups, counts, image_side(recipe), seed)
    finetune(recipe, out)
    model, processor = load_generator(out)
    held_out = open_set(str(close_ups / "pairs.jsonl"), "test", ["details"])
    painting = SamplingOptions(recipe.generation.sampling_steps, recipe.generation.guidance_scale, size.best_of, seed)
    judge = Pipeline.from_model(model, processor, name=out.name)
    painted = paint_texts(model, processor, prompts_of(held_out), painting, judge)
    metrics = generation_report(painted, held_out, painting, judge, r2d2_extractor(out.name, model, processor))
    save_images(painted[:SHOWN], out / "painted")
    shown = [
        {"text": painted_text.text, "pictures": [f"{row:03d}-{index + 1}.png" for index in range(size.best_of)]}
        for row, painted_text in enumerate(painted[:SHOWN], start=1)
    ]
    write_json(path, {"figures": metrics, "shown": shown})


def painted_uris(out: Path, painted: dict[str, Any]) -> dict[str, str]:
    """Data URIs, by name, of the images that `paint_images` wrote into the folder `out`; they are enlarged."""
    from PIL import Image

    from ccmb.report.markup import data_uri
    from ccmb.tasks.generation.grid import enlarged

    uris = {}
    for name in (name for example in painted["shown"] for name in example["pictures"]):
        with Image.open(out / "painted" / name) as image:
            uris[name] = data_uri(enlarged(image))
    return uris


def _recipe(name: str, run: Path, data: Path, changes: Sequence[str]) -> FinetuneRecipe:
    """A recipe without validation: no checkpoint is chosen, and the report measures on the test split."""
    from ccmb.core.config.recipe_files import find_recipe, load_recipe
    from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe

    # Absolute folders, so that the runs can be continued from anywhere.
    fixed = [f"data.folder={data.resolve()}", f"model.init_from={run.resolve()}", "validation.split="]
    return load_recipe(FinetuneRecipe, find_recipe(name, FINETUNING), [*fixed, *changes])
