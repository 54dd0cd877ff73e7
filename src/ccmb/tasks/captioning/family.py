"""Captioning: what an image shows, written in Chinese."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from ccmb.core.choices import Decode
from ccmb.core.options import Flag, Options, refuse_unread
from ccmb.tasks.captioning.table import captioning_table
from ccmb.tasks.family import Loaded, Report, TaskFamily
from ccmb.tasks.options import LimitOption, NoiseSeedOption, PairOptions, RankingRuleOption

if TYPE_CHECKING:
    from ccmb.r2d2.generative.captioner import R2D2Captioner
    from ccmb.r2d2.processing import R2D2Processor
    from ccmb.tasks.captioning.decoding import Decoding
    from ccmb.tasks.captioning.evaluate import CaptionResults
    from ccmb.tasks.captioning.finetune import CaptioningFinetuner
    from ccmb.tasks.common.datasets import RetrievalSet

# Which options each way of decoding reads; those of none are of all.
DECODES = {
    "--decode beam": ("beams", "candidates"),
    "--decode greedy": ("candidates",),  # if it is one
    "--decode sample": ("candidates", "temperature", "top_p", "seed"),
}


CaptionsFlag = Annotated[bool, Flag("Measure captions of the images of own pairs.", forms=("--captions",))]


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(Options):
    """Options of decoding and re-ranking."""

    decode: Annotated[Decode, Flag("How captions are found.")] = "beam"
    beams: Annotated[int, Flag("Captions that beam search follows.", min=1)] = 5
    candidates: Annotated[
        int | None,
        Flag("Captions of each image that re-ranking chooses from; by default 5, of greedy 1.", min=1),
    ] = None
    rerank: Annotated[
        bool, Flag("Let R2D2's match score choose among the candidates.", forms=("--rerank/--no-rerank",))
    ] = True
    max_length: Annotated[
        int | None, Flag("Longest caption in tokens; by default 40, or what the model has room for.", min=1)
    ] = None

    def refuse_undecoded(self) -> None:
        """Refuse options that this way of decoding does not read.

        Raises:
            UsageError: one was given; the message names it.
        """
        refuse_unread(self.flags_given, f"--decode {self.decode}", DECODES)

    @property
    def candidates_wanted(self) -> int:
        """How many candidates each image gets: the option, or as many as the decoding has a use for."""
        if self.candidates is not None:
            return self.candidates
        if self.decode == "greedy" or not self.rerank:
            return 1
        return self.beams if self.decode == "beam" else 5

    def decoding(self, captioner: R2D2Captioner, **values: Any) -> Decoding:
        """The options of the decoder itself.

        Args:
            values: further ones of `Decoding`, of sampling.
        """
        from ccmb.tasks.captioning.predict import decoding_for

        own = {"decode": self.decode, "beams": self.beams, "candidates": self.candidates_wanted}
        return decoding_for(captioner, self.max_length, **own, **values)


@dataclass(frozen=True, kw_only=True)
class CaptioningEvalOptions(DecodingOptions, PairOptions):
    """What `ccmb evaluate --captions` reads."""

    captions: CaptionsFlag = False
    ranking_rule: RankingRuleOption = None
    limit: LimitOption = None
    seed: NoiseSeedOption = 0


class CaptioningFamily(
    TaskFamily[CaptioningEvalOptions, "RetrievalSet", "tuple[R2D2Captioner, R2D2Processor]", "CaptionResults"]
):
    """See `TaskFamily`."""

    name = "captioning"
    mode = "--captions"
    asked_by = "captions"
    options = CaptioningEvalOptions

    def check(self, spec: str, options: CaptioningEvalOptions) -> None:
        options.refuse_undecoded()
        if not options.rerank:
            options.refuse("of re-ranking, which --no-rerank leaves out", "ranking_rule")

    def open_dataset(self, spec: str, options: CaptioningEvalOptions) -> RetrievalSet:
        from ccmb.tasks.common.datasets import first_images, open_set

        options.refuse_fields_of_published(spec)
        return first_images(open_set(spec, options.split, options.fields, options.images), options.limit)

    def load(self, source: str, options: CaptioningEvalOptions) -> Loaded[tuple[R2D2Captioner, R2D2Processor]]:
        from ccmb.r2d2.generative.captioner import load_captioner

        captioner, processor = load_captioner(source)
        options.need_second_stage(captioner.can_rank, source, "ranking_rule")
        return Loaded(source, (captioner, processor))

    def predict(
        self, loaded: Loaded[tuple[R2D2Captioner, R2D2Processor]], data: RetrievalSet, options: CaptioningEvalOptions
    ) -> CaptionResults:
        from ccmb.data.pairs import readable_samples
        from ccmb.tasks.captioning.evaluate import caption_dataset

        readable = replace(data, samples=readable_samples(data.samples, data.images)[0])
        decoding = options.decoding(loaded.model[0], seed=options.seed)
        return caption_dataset(
            *loaded.model,
            readable,
            options=decoding,
            rerank=options.rerank,
            ranking_rule=options.ranking_rule,
        )

    def evaluate(
        self, loaded: Loaded[tuple[R2D2Captioner, R2D2Processor]], data: RetrievalSet, options: CaptioningEvalOptions
    ) -> Report:
        from ccmb.tasks.captioning.evaluate import evaluate_captions

        decoding = options.decoding(loaded.model[0], seed=options.seed)
        values = evaluate_captions(
            *loaded.model,
            data,
            options=decoding,
            rerank=options.rerank,
            ranking_rule=options.ranking_rule,
        )
        return self.report(values, loaded.source, data.samples)

    def table(self, metrics: dict[str, Any]) -> str:
        return captioning_table(metrics)

    def finetuner(self) -> CaptioningFinetuner:
        from ccmb.tasks.captioning.finetune import CaptioningFinetuner

        return CaptioningFinetuner()
