"""Generation: an image of what a text describes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from ccmb.core.options import Flag, Options
from ccmb.tasks.family import Loaded, Report, TaskFamily
from ccmb.tasks.generation.table import generation_table
from ccmb.tasks.options import LimitOption, NoiseSeedOption, PairOptions

if TYPE_CHECKING:
    from ccmb.inference.pipeline import Pipeline
    from ccmb.r2d2.generative.generator import R2D2Generator
    from ccmb.r2d2.processing import R2D2Processor
    from ccmb.tasks.common.datasets import RetrievalSet
    from ccmb.tasks.generation.finetune import GenerationFinetuner
    from ccmb.tasks.generation.predict import GeneratedImages, SamplingOptions


GenerateFlag = Annotated[bool, Flag("Measure images painted from the texts of own pairs.", forms=("--generate",))]


@dataclass(frozen=True, kw_only=True)
class PaintingOptions(Options):
    """Options of sampling, and the model that gives match scores."""

    steps: Annotated[int, Flag("From noise to an image.", min=1)] = 20
    guidance: Annotated[
        float, Flag("How much the text counts: 1 is as trained, more is more faithful and less varied.", min=0)
    ] = 3.0
    best_of: Annotated[int, Flag("Images of each text, the one with the best match score first.", min=1)] = 1
    judge: Annotated[
        str | None,
        Flag("Run, model folder or hub id of the R2D2 that gives match scores; by default the model itself."),
    ] = None

    def sampling(self, seed: int, **values: Any) -> SamplingOptions:
        """The options of the sampler itself.

        Args:
            values: further ones of `SamplingOptions`.
        """
        from ccmb.tasks.generation.predict import SamplingOptions

        return SamplingOptions(self.steps, self.guidance, self.best_of, seed, **values)


@dataclass(frozen=True, kw_only=True)
class MeasuredPaintingOptions(PaintingOptions):
    """Options of sampling, and the features that images are compared by."""

    features: Annotated[
        str | None,
        Flag(
            "Run, model folder or hub id whose features FID and KID compare: R2D2 or any model of transformers that "
            "reads images; by default the model itself."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class GenerationEvalOptions(MeasuredPaintingOptions, PairOptions):
    """What `ccmb evaluate --generate` reads."""

    generate: GenerateFlag = False
    limit: LimitOption = None
    seed: NoiseSeedOption = 0


class GenerationFamily(
    TaskFamily[GenerationEvalOptions, "RetrievalSet", "tuple[R2D2Generator, R2D2Processor]", "list[GeneratedImages]"]
):
    """See `TaskFamily`."""

    name = "generation"
    mode = "--generate"
    asked_by = "generate"
    options = GenerationEvalOptions

    def open_dataset(self, spec: str, options: GenerationEvalOptions) -> RetrievalSet:
        from ccmb.tasks.common.datasets import first_images, open_set

        options.refuse_fields_of_published(spec)
        opened = open_set(spec, options.split, options.fields, options.images, family=self.name)
        return first_images(opened, options.limit)

    def load(self, source: str, options: GenerationEvalOptions) -> Loaded[tuple[R2D2Generator, R2D2Processor]]:
        from ccmb.r2d2.generative.generator import load_generator

        return Loaded(source, load_generator(source))

    def predict(
        self, loaded: Loaded[tuple[R2D2Generator, R2D2Processor]], data: RetrievalSet, options: GenerationEvalOptions
    ) -> list[GeneratedImages]:
        from ccmb.data.pairs import readable_samples
        from ccmb.tasks.generation.evaluate import prompts_of
        from ccmb.tasks.generation.predict import paint_texts

        texts = prompts_of(replace(data, samples=readable_samples(data.samples, data.images)[0]))
        sampling, judge = options.sampling(options.seed), _judge(loaded, options)
        return paint_texts(*loaded.model, texts, sampling, judge)

    def evaluate(
        self, loaded: Loaded[tuple[R2D2Generator, R2D2Processor]], data: RetrievalSet, options: GenerationEvalOptions
    ) -> Report:
        from ccmb.tasks.generation.evaluate import evaluate_generation
        from ccmb.tasks.generation.features import open_extractor, r2d2_extractor

        judge = _judge(loaded, options)
        if options.features:
            extractor = open_extractor(options.features)
        else:
            extractor = r2d2_extractor(loaded.source, *loaded.model)
        sampling = options.sampling(options.seed)
        values = evaluate_generation(*loaded.model, data, options=sampling, judge=judge, extractor=extractor)
        return self.report(values, loaded.source, data.samples)

    def table(self, metrics: dict[str, Any]) -> str:
        return generation_table(metrics)

    def finetuner(self) -> GenerationFinetuner:
        from ccmb.tasks.generation.finetune import GenerationFinetuner

        return GenerationFinetuner()


def _judge(loaded: Loaded[tuple[R2D2Generator, R2D2Processor]], options: GenerationEvalOptions) -> Pipeline:
    from ccmb.tasks.generation.predict import open_judge

    return open_judge(options.judge, loaded.source, *loaded.model)
