"""Which pairs are dropped for what else the corpus holds: of their text, their picture and their domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import daft
from daft import DataFrame, DataType, Expression, Window, col
from daft import functions as F

from ccmb.corpus.base.daft_engine import Table, counts_by, each_bucket, hashed, union, write, write_by_hash
from ccmb.corpus.base.recipe import CorpusRecipe
from ccmb.corpus.base.sampling import place_of
from ccmb.corpus.texts.near_duplicates import alike_within

TEST_TEXT, TEMPLATE, NEAR = "test text", "repeated template", "near-duplicate"
MANY_IMAGES, MANY_TEXTS = "too many images of the text", "too many texts of the image"
LOW_SCORE, DOMAIN = "score too low", "too much of a domain"
_MARK = DataType.int32()


def write_by_text(texts: Table, folder: Path, buckets: int) -> None:
    """The texts in buckets by text: pair, image, key, template, field, bound and the bare text."""
    for _, frame in each_bucket(texts):
        kept = frame.select("pair", "image", "key", "template", "field", "bound", "bare")
        write_by_hash(kept, folder, "key", buckets)


def write_by_template(by_text: Table, folder: Path, buckets: int) -> None:
    """Template and key of the texts that have numbers or Latin words, in buckets by template."""
    for _, frame in each_bucket(by_text):
        frame = frame.where(F.not_null(col("template"))).select("template", "key")
        write_by_hash(frame, folder, "template", buckets)


def write_templates(by_template: Table, most: int, folder: Path) -> None:
    """The templates that more than `most` different texts fill in."""
    for _, frame in each_bucket(by_template):
        counted = frame.groupby("template").agg(col("key").count_distinct().alias("texts"))
        write(counted.where(col("texts") > most), folder)


def write_verdicts(
    by_text: Table, near: Table, tests: Table, templates: Table, recipe: CorpusRecipe, folder: Path, buckets: int
) -> None:
    """Pairs that the whole corpus speaks against, in buckets by picture: pair, image and reason.

    A text that may stand once alone, up to small changes, may stand once as it is, too.
    """
    dedup = recipe.dedup
    stands_once = col("field").is_in(list(dedup.fields)) & (F.length(col("bare")) >= dedup.min_characters)
    repeated = _marked(templates.read(), "template", "is_repeated")
    for bucket, frame in each_bucket(by_text):
        frame = frame.join(_marked(tests.read(bucket), "key", "is_test"), on="key", how="left")
        frame = frame.join(_marked(near.read(bucket), "key", "is_near"), on="key", how="left")
        frame = frame.join(repeated, on="template", how="left")
        frame = frame.with_column("once", stands_once & daft.lit(dedup.corpus_threshold is not None))
        reason = F.when(F.not_null(col("is_test")), TEST_TEXT).when(F.not_null(col("is_repeated")), TEMPLATE)
        reason = reason.when(col("once") & F.not_null(col("is_near")), NEAR).otherwise(None)
        frame = frame.select("pair", "image", "key", "bound", "once", reason.alias("reason")).collect()
        dropped = frame.where(F.not_null(col("reason"))).select("pair", "image", "reason")
        left = frame.where(F.is_null(col("reason")))
        again = _all_but_first(left.where(col("once")))
        late = _all_but_best(left.where(~col("once")), recipe.pairs.max_images_per_text)
        write_by_hash(union([dropped, again, late]), folder, "image", buckets)


def _all_but_first(frame: DataFrame) -> DataFrame:
    """Of rows of one text, all but that of the smallest pair, as near-duplicates."""
    first = frame.groupby("key").agg(col("pair").min().alias("first"))
    again = frame.join(first, on="key").where(col("pair") != col("first"))
    return again.select("pair", "image", daft.lit(NEAR).alias("reason"))


def _all_but_best(frame: DataFrame, most: int) -> DataFrame:
    """Of rows of one text, all after the first `most` by bound."""
    counted = frame.groupby("key").agg(col("pair").count().alias("images"))
    many = frame.join(counted.where(col("images") > most), on="key")
    of_text = Window().partition_by("key").order_by("bound", "pair", desc=[True, False], nulls_first=[False, False])
    late = many.with_column("place", F.row_number().over(of_text)).where(col("place") > most)
    return late.select("pair", "image", daft.lit(MANY_IMAGES).alias("reason"))


def _marked(frame: DataFrame, key: str, mark: str) -> DataFrame:
    return frame.groupby(key).agg(col(key).count().cast(_MARK).alias(mark))


def write_judged(texts: Table, verdicts: Table, recipe: CorpusRecipe, folder: Path) -> None:
    """All texts with `reason`: what the corpus and the other texts of their picture say."""
    columns = [*texts.read().column_names, "reason"]
    for bucket, frame in each_bucket(texts):
        frame = frame.join(verdicts.read(bucket).select("pair", "reason"), on="pair", how="left")
        if (least := recipe.pairs.min_score) is not None:
            low = F.is_null(col("reason")) & F.fill_null(col("score") < least, False)
            frame = frame.with_column("reason", F.when(low, LOW_SCORE).otherwise(col("reason")))
        of_image = _judged_by_image(frame.where(F.is_null(col("reason"))), recipe)
        frame = frame.join(of_image, on="pair", how="left")
        frame = frame.with_column("reason", F.coalesce(col("reason"), col("among")))
        write(frame.select(*columns), folder, bucket)


def _judged_by_image(frame: DataFrame, recipe: CorpusRecipe) -> DataFrame:
    """Of pairs, the dropped ones and why (`among`): texts of one picture that are alike, or too many."""
    names = ("pair", "bare", "rank", "bound")

    @daft.func.batch(
        return_dtype=DataType.list(DataType.struct({"pair": DataType.uint64(), "among": DataType.string()}))
    )
    def judged(*lists: daft.Series) -> list[Any]:
        images = zip(*(series.to_pylist() for series in lists), strict=True)
        return [
            dropped_of_image(
                list(zip(*of_image, strict=True)), recipe.dedup.same_image_threshold, recipe.pairs.max_texts_per_image
            )
            for of_image in images
        ]

    lists = frame.groupby("image").agg(*(F.coalesce(col(name), _zero(name)).list_agg().alias(name) for name in names))
    several = lists.where(F.list_count(col("pair")) > 1)
    found = several.with_column("said", judged(*(col(name) for name in names))).select("said").explode("said")
    return found.select(F.unnest(col("said"))).where(F.not_null(col("among")))


def _zero(name: str) -> Expression:
    return daft.lit("") if name == "bare" else daft.lit(0)


def dropped_of_image(
    texts: Sequence[tuple[int, str, int, float]], similarity: float | None, most: int
) -> list[dict[str, Any]]:
    """Of (pair, bare text, rank of its field, bound) of one picture, the dropped ones: queries by their bounds come
    first, then the other fields; of equal ones the longer text."""
    texts = sorted(texts, key=lambda of: (of[2], -of[3], -len(of[1]), of[0]))
    alike = [False] * len(texts) if similarity is None else alike_within([of[1] for of in texts], similarity)
    left = [of[0] for of, is_alike in zip(texts, alike, strict=True) if not is_alike]
    near = [{"pair": of[0], "among": NEAR} for of, is_alike in zip(texts, alike, strict=True) if is_alike]
    return near + [{"pair": pair, "among": MANY_TEXTS} for pair in left[most:]]


def kept_shares(pairs_of: Mapping[str | None, int], greatest: float) -> dict[str | None, float]:
    """Of each domain with more than that share of all pairs, the share of its pairs that brings it down to it. Pages
    without a domain are no domain."""
    most = greatest * sum(pairs_of.values())
    return {domain: most / count for domain, count in pairs_of.items() if domain is not None and count > most}


def domains(judged: Table) -> dict[str | None, int]:
    """Kept pairs of each domain."""
    found: dict[str | None, int] = {}
    for _, frame in each_bucket(judged):
        for domain, (count,) in counts_by(frame.where(F.is_null(col("reason"))), "domain").items():
            found[domain] = found.get(domain, 0) + count
    return found


def without_too_much(frame: DataFrame, shares: Mapping[str | None, float]) -> DataFrame:
    """Give a reason to pairs of the domains beyond their shares; which ones, the hashes of the pairs say."""
    if not shares:
        return frame
    limits = daft.from_pydict({"domain": list(shares), "limit": list(shares.values())})
    frame = frame.join(limits, on="domain", how="left").with_column("again", hashed("pair", seed=1))
    late = F.is_null(col("reason")) & F.fill_null(place_of(col("again")) >= col("limit"), False)
    return frame.with_column("reason", F.when(late, DOMAIN).otherwise(col("reason"))).exclude("limit", "again")
