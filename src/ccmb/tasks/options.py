"""Options that families of tasks share; what each family reads is in a class of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ccmb.core.choices import Convention, Precision, RankingRule
from ccmb.core.options import Flag, Options

SplitOption = Annotated[str, Flag("Which split of the pairs to score; with --classes, its folder.")]
_DEPTH = Flag(
    "Candidates of the first stage that the second one ranks; by default as many as the model asks for, else 128; with "
    "--classes none.",
    min=1,
    forms=("--rerank-k", "--depth"),
    show_default=False,
)
DepthOption = Annotated[int | None, _DEPTH]
RankingRuleOption = Annotated[
    RankingRule | None, Flag("Score the second stage by this rule instead of the model's own.")
]
LimitOption = Annotated[int | None, Flag("Of --captions and --generate: use the first N images alone.", min=2)]
NoiseSeedOption = Annotated[int, Flag("Of the noise: equal seeds paint equal images.", min=0)]


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """Options of data in splits, whose images lie beside it."""

    images: Annotated[
        Path | None, Flag("Folder or tar of the images; by default images.tar or images beside the data.")
    ] = None
    split: SplitOption = "test"


@dataclass(frozen=True, kw_only=True)
class PairOptions(ImageOptions):
    """Options of images with texts of their own."""

    text_field: Annotated[list[str] | None, Flag("Text field; may be given several times.")] = None

    @property
    def fields(self) -> list[str]:
        return self.text_field or ["texts"]

    def refuse_fields_of_published(self, *data: str) -> None:
        """Refuse text fields where all sets are published ones, which have fields of their own."""
        if all(Path(spec.rpartition("=")[2]).is_dir() for spec in data):
            self.refuse("of own pairs, and does nothing with published sets", "text_field")


@dataclass(frozen=True, kw_only=True)
class RankOptionsGiven(Options):
    """Options of the second stage of retrieval, and of which answers are right."""

    precision: Annotated[
        Precision,
        Flag(
            "bf16: the best candidates are chosen in bf16 and ordered in fp32; auto: where the processor has bf16; "
            "int8: chosen by the model's int8 export, which is made at its first use."
        ),
    ] = "fp32"
    cascade: Annotated[
        int | None,
        Flag("The text-image encoder chooses N candidates of each query, and both encoders order these.", min=1),
    ] = None
    convention: Annotated[
        Convention,
        Flag(
            "Which answers of retrieval are right: equal_texts (by default: an equal text is right, ties count "
            "against the model) or official (its own texts alone, ties by order).",
            show_default=False,
        ),
    ] = "equal_texts"
