"""The recipe of a corpus: thresholds for clicks, texts and pairs, each with the source of its default.

The paper does not publish the filters of Zero; it says only "by click-through rate". So a default is "our choice"
unless it names a source: DanQing (2026) or Chinese-CLIP (arXiv 2211.01335).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ccmb.core.config.base import ConfigBase
from ccmb.core.config.given_keys import Unused

FieldName = Literal["query", "title", "content", "caption"]
# If texts of an image are equal, the one whose field comes first here is kept.
FIELDS: tuple[FieldName, ...] = ("query", "caption", "title", "content")


class VisitorRecipe(ConfigBase):
    """Which visitors are bots. All their impressions are dropped. Our choices."""

    RETIRED: ClassVar = {
        "impressions_per_day": "max_impressions_per_day",
        "click_share": "max_click_share",
        "least_impressions": "min_impressions",
    }
    max_impressions_per_day: int = Field(
        2000, gt=0, description="visitors with more on any day count as bots (on the whole log if it has no times)"
    )
    max_click_share: float = Field(
        0.8, gt=0, le=1, description="visitors with a greater share of clicked impressions count as bots"
    )
    min_impressions: int = Field(
        20, gt=0, description="the share of clicks is checked only for visitors with at least so many"
    )


class PositionRecipe(ConfigBase):
    """How likely people look at a result, by its position. It is estimated from the log itself. Our choices."""

    RETIRED: ClassVar = {
        "correct": "debias",
        "positions": "max_position",
        "least_clicks": "min_clicks",
        "least_examination": "min_examination",
        "sample": "max_rows",
    }
    debias: bool = Field(
        True, description="correct rates for position; off: the raw rate, as if people looked at every impression"
    )
    max_position: int = Field(50, gt=0, le=1000, description="the deepest position; deeper ones count as this one")
    min_clicks: int = Field(100, gt=0, description="neighbouring positions are pooled until they have so many")
    min_examination: float = Field(
        0.02, gt=0, le=1, description="smaller estimates of the examination are raised to this"
    )
    max_rows: int = Field(
        1_000_000, gt=0, description="maximum number of rows (pair, position) that the estimate reads"
    )


class ClickRecipe(ConfigBase):
    """Which (query, image) pairs of the log are kept. Our choices: the paper says only that the CTR decides."""

    RETIRED: ClassVar = {
        "least_views": "min_impressions",
        "least_clicks": "min_clicks",
        "bound": "ctr_lower_bound",
        "deviations": "z",
        "least_rate": "min_ctr",
        "queries_per_image": "max_queries_per_image",
    }
    visitors: VisitorRecipe = VisitorRecipe()
    position: PositionRecipe = PositionRecipe()
    min_impressions: int = Field(5, ge=1, description="minimum number of visitors that saw the pair")
    min_clicks: int = Field(2, ge=1, description="minimum number of visitors that clicked on the pair")
    ctr_lower_bound: Literal["wilson", "beta", "none"] = Field(
        "wilson",
        description="lower bound of the rate: of Wilson's interval, of a Beta posterior, or the rate itself",
    )
    z: float = Field(
        1.645, ge=0, description="distance of the bound in standard deviations (z); 1.645 is 95 % one-sided"
    )
    prior: tuple[float, float] = Field((1.0, 9.0), description="clicks and non-clicks of the Beta prior")
    min_ctr: float = Field(0.06, ge=0, le=1, description="pairs whose bound of the rate is below this are dropped")
    max_queries_per_image: int = Field(
        5, gt=0, description="maximum number of queries of an image; those with the highest bounds are kept"
    )

    @field_validator("prior")
    @classmethod
    def _positive(cls, value: tuple[float, float]) -> tuple[float, float]:
        if min(value) <= 0:
            raise ValueError("both numbers of a Beta prior are greater than 0")
        return value


class Lengths(ConfigBase):
    """Minimum and maximum length of a text."""

    characters: tuple[int, int]
    words: tuple[int, int]

    @field_validator("characters", "words")
    @classmethod
    def _in_order(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("give the least and the greatest length, in this order")
        return value


# Chinese-CLIP keeps 5 to 50 characters, DanQing 5 to 60 words. We choose two other limits: queries may be shorter, and
# the text around an image may be longer, because the tokenizer cuts it.
LENGTHS: dict[FieldName, Lengths] = {
    "query": Lengths(characters=(2, 50), words=(2, 50)),
    "caption": Lengths(characters=(5, 256), words=(5, 128)),
    "title": Lengths(characters=(5, 128), words=(5, 60)),
    "content": Lengths(characters=(5, 512), words=(5, 400)),
}


class TextRecipe(ConfigBase):
    """How texts are cleaned, and which texts are dropped."""

    RETIRED: ClassVar = {
        "simplified": "to_simplified",
        "han_share": "min_han_share",
        "mojibake": "drop_mojibake",
        "boilerplate": "drop_boilerplate",
        "contacts": "drop_contacts",
        "texts_per_template": "max_texts_per_template",
    }
    to_simplified: bool = Field(True, description="write traditional characters as simplified ones, as DanQing does")
    lengths: dict[FieldName, Lengths] = Field(LENGTHS, description="limits of the length of each field")
    min_han_share: float = Field(
        0.5, ge=0, le=1, description="minimum share of Han among words other than numbers; our choice"
    )
    drop_mojibake: bool = Field(True, description="drop texts that were read in a wrong encoding; our choice")
    drop_boilerplate: bool = Field(
        True, description="drop phrases about the page itself and names of files; our choice"
    )
    drop_contacts: bool = Field(
        True, description="drop texts with URLs, e-mail addresses, phone or chat numbers; our choice"
    )
    sensitive_words: str | None = Field(
        None, description="UTF-8 file with a word in each line; texts with such a word are dropped"
    )
    max_texts_per_template: int | None = Field(
        50,
        gt=0,
        description="texts that differ only in numbers and Latin words are dropped if there are more; our choice",
    )

    @model_validator(mode="after")
    def _every_field(self) -> TextRecipe:
        if missing := [name for name in FIELDS if name not in self.lengths]:
            raise ValueError(f"lengths lacks {', '.join(missing)}")
        return self


class TextDedupRecipe(ConfigBase):
    """Which texts are near-duplicates, by the Jaccard similarity of character 2-grams. Our choices."""

    RETIRED: ClassVar = {
        "same_image": "same_image_threshold",
        "corpus": "corpus_threshold",
        "least_characters": "min_characters",
        "rows": "rows_per_band",
        "test_least_characters": "min_test_characters",
    }
    same_image_threshold: float | None = Field(
        0.7,
        gt=0,
        le=1,
        description="texts of one image with at least this similarity are kept once; null: only exact duplicates",
    )
    corpus_threshold: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="the same across images, estimated by MinHash; equal texts are then kept once, too",
    )
    fields: list[FieldName] = Field(
        ["caption", "title", "content"],
        description="fields that `corpus_threshold` applies to; not queries, which many images share",
    )
    min_characters: int = Field(8, gt=1, description="shorter texts are similar by chance, and kept")
    bands: int = Field(16, gt=0, description="bands of a MinHash signature")
    rows_per_band: int = Field(5, gt=0, description="hashes in a band")
    min_test_characters: int = Field(6, gt=0, description="shorter test texts are common words and no leak")


class PairRecipe(ConfigBase):
    """Which pairs of an image and a text are kept after all other filters."""

    RETIRED: ClassVar = {
        "texts_per_image": "max_texts_per_image",
        "images_per_text": "max_images_per_text",
        "domain_share": "max_domain_share",
        "least_score": "min_score",
    }
    max_texts_per_image: int = Field(
        10, gt=0, description="maximum number; queries with the highest bounds come first; our choice"
    )
    max_images_per_text: int = Field(
        100, gt=0, description="maximum number; those with the highest bounds are kept; our choice"
    )
    max_domain_share: float | None = Field(
        None, gt=0, le=1, description="maximum share of one domain among the pairs; null: no limit"
    )
    min_score: float | None = Field(
        None,
        description="minimum `score` (a column of pages or lists), such as 0.26; pairs without a score are kept",
    )


class CorpusRecipe(ConfigBase):
    """From logs and pages to pairs."""

    clicks: ClickRecipe = ClickRecipe()
    text: TextRecipe = TextRecipe()
    dedup: TextDedupRecipe = TextDedupRecipe()
    pairs: PairRecipe = PairRecipe()
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the sample positions, which decide on subsets")

    def unused(self) -> Iterator[Unused]:
        """See `ccmb.core.config.given_keys`."""
        clicks, dedup = self.clicks, self.dedup
        if not clicks.position.debias:
            keys = tuple(f"clicks.position.{key}" for key in PositionRecipe.model_fields if key != "debias")
            yield Unused(keys, "clicks.position.debias is off", ("clicks.position.debias",))
        if clicks.ctr_lower_bound != "beta":
            yield Unused(("clicks.prior",), "of the bound beta", ("clicks.ctr_lower_bound",))
        if clicks.ctr_lower_bound == "none":
            yield Unused(("clicks.z",), "clicks.ctr_lower_bound is none", ("clicks.ctr_lower_bound",))
        if dedup.corpus_threshold is None:
            keys = "dedup.fields", "dedup.min_characters"
            yield Unused(keys, "dedup.corpus_threshold is null", ("dedup.corpus_threshold",))
