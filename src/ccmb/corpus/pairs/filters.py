"""Filters of pairs that depend on the rest of the corpus: on other pairs of the text, the image and the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import daft
from daft import DataFrame, DataType, Expression, Window, col
from daft import functions as F

from ccmb.corpus.base.daft_engine import Table, counts_by, each_bucket, hashed, union, write, write_by_hash
from ccmb.corpus.base.recipe import CorpusRecipe
from ccmb.corpus.base.sampling import sample_position
from ccmb.corpus.texts.near_duplicates import alike_within

TEST_TEXT, TEMPLATE, NEAR = "test text", "repeated template", "near-duplicate"
MANY_IMAGES, MANY_TEXTS = "too many images of the text", "too many texts of the image"
LOW_SCORE, DOMAIN = "score too low", "too much of a domain"
_MARK = DataType.int32()


def write_by_text(texts: Table, folder: Path, buckets: int) -> None:
    """Write the texts in buckets by text: pair, image, key, template, field, bound and the bare text."""
    for _, frame in each_bucket(texts):
        kept = frame.select("pair", "image", "key", "template", "field", "bound", "bare")
        write_by_hash(kept, folder, "key", buckets)


def write_by_template(by_text: Table, folder: Path, buckets: int) -> None:
    """Write template and key of the texts that have numbers or Latin words, in buckets by template."""
    for _, frame in each_bucket(by_text):
        frame = frame.where(F.not_null(col("template"))).select("template", "key")
        write_by_hash(frame, folder, "template", buckets)


def write_templates(by_template: Table, max_texts: int, folder: Path) -> None:
    """Write the templates that more than `max_texts` different texts fill in."""
    for _, frame in each_bucket(by_template):
        counted = frame.groupby("template").agg(col("key").count_distinct().alias("texts"))
        write(counted.where(col("texts") > max_texts), folder)


def write_drop_reasons(
    by_text: Table, near: Table, tests: Table, templates: Table, recipe: CorpusRecipe, folder: Path, buckets: int
) -> None:
    """Write the pairs that are dropped because of the rest of the corpus, in buckets by image: pair, image, reason.

    If near-duplicates of a text are dropped, equal texts are dropped too: the text is kept once.
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
    """All rows of a text but the one with the smallest pair; they are dropped as near-duplicates."""
    first = frame.groupby("key").agg(col("pair").min().alias("first"))
    again = frame.join(first, on="key").where(col("pair") != col("first"))
    return again.select("pair", "image", daft.lit(NEAR).alias("reason"))


def _all_but_best(frame: DataFrame, max_images: int) -> DataFrame:
    """The rows of a text after the best `max_images` by bound; they are dropped."""
    counted = frame.groupby("key").agg(col("pair").count().alias("images"))
    many = frame.join(counted.where(col("images") > max_images), on="key")
    by_bound = Window().partition_by("key").order_by("bound", "pair", desc=[True, False], nulls_first=[False, False])
    late = many.with_column("place", F.row_number().over(by_bound)).where(col("place") > max_images)
    return late.select("pair", "image", daft.lit(MANY_IMAGES).alias("reason"))


def _marked(frame: DataFrame, key: str, mark: str) -> DataFrame:
    return frame.groupby(key).agg(col(key).count().cast(_MARK).alias(mark))


def write_filtered(texts: Table, drop_reasons: Table, recipe: CorpusRecipe, folder: Path) -> None:
    """Write all texts with `reason`: why the corpus, or the other texts of the image, drop them (null: kept)."""
    columns = [*texts.read().column_names, "reason"]
    for bucket, frame in each_bucket(texts):
        frame = frame.join(drop_reasons.read(bucket).select("pair", "reason"), on="pair", how="left")
        if (min_score := recipe.pairs.min_score) is not None:
            low = F.is_null(col("reason")) & F.fill_null(col("score") < min_score, False)
            frame = frame.with_column("reason", F.when(low, LOW_SCORE).otherwise(col("reason")))
        dropped = _dropped_by_image(frame.where(F.is_null(col("reason"))), recipe)
        frame = frame.join(dropped, on="pair", how="left")
        frame = frame.with_column("reason", F.coalesce(col("reason"), col("among")))
        write(frame.select(*columns), folder, bucket)


def _dropped_by_image(frame: DataFrame, recipe: CorpusRecipe) -> DataFrame:
    """The dropped pairs and their reasons (`among`): near-duplicates within an image, or too many texts of it."""
    names = ("pair", "bare", "rank", "bound")

    @daft.func.batch(
        return_dtype=DataType.list(DataType.struct({"pair": DataType.uint64(), "among": DataType.string()}))
    )
    def dropped_of(*lists: daft.Series) -> list[Any]:
        images = zip(*(series.to_pylist() for series in lists), strict=True)
        return [
            dropped_within_image(
                list(zip(*columns, strict=True)), recipe.dedup.same_image_threshold, recipe.pairs.max_texts_per_image
            )
            for columns in images
        ]

    lists = frame.groupby("image").agg(*(F.coalesce(col(name), _zero(name)).list_agg().alias(name) for name in names))
    several = lists.where(F.list_count(col("pair")) > 1)
    dropped = several.with_column("row", dropped_of(*(col(name) for name in names))).select("row").explode("row")
    return dropped.select(F.unnest(col("row"))).where(F.not_null(col("among")))


def _zero(name: str) -> Expression:
    return daft.lit("") if name == "bare" else daft.lit(0)


def dropped_within_image(
    texts: Sequence[tuple[int, str, int, float]], similarity: float | None, max_texts: int
) -> list[dict[str, Any]]:
    """The dropped texts of one image.

    Texts are preferred by the rank of their field, then by the higher bound, then by length.

    Args:
        texts: (pair, bare text, rank of its field, bound) of each text.
    """
    texts = sorted(texts, key=lambda entry: (entry[2], -entry[3], -len(entry[1]), entry[0]))
    alike = [False] * len(texts) if similarity is None else alike_within([entry[1] for entry in texts], similarity)
    left = [entry[0] for entry, is_alike in zip(texts, alike, strict=True) if not is_alike]
    near = [{"pair": entry[0], "among": NEAR} for entry, is_alike in zip(texts, alike, strict=True) if is_alike]
    return near + [{"pair": pair, "among": MANY_TEXTS} for pair in left[max_texts:]]


def kept_shares(pairs_of: Mapping[str | None, int], max_share: float) -> dict[str | None, float]:
    """The share of its pairs that each too frequent domain keeps.

    A domain is too frequent if it has more than the share `max_share` of all pairs. Pages without a domain never are.
    """
    max_pairs = max_share * sum(pairs_of.values())
    return {domain: max_pairs / count for domain, count in pairs_of.items() if domain is not None and count > max_pairs}


def count_domains(filtered: Table) -> dict[str | None, int]:
    """The number of kept pairs of each domain."""
    counts: dict[str | None, int] = {}
    for _, frame in each_bucket(filtered):
        for domain, (count,) in counts_by(frame.where(F.is_null(col("reason"))), "domain").items():
            counts[domain] = counts.get(domain, 0) + count
    return counts


def cap_domains(frame: DataFrame, shares: Mapping[str | None, float]) -> DataFrame:
    """Drop the pairs of a domain beyond its share; the hashes of the pairs decide which."""
    if not shares:
        return frame
    limits = daft.from_pydict({"domain": list(shares), "limit": list(shares.values())})
    frame = frame.join(limits, on="domain", how="left").with_column("again", hashed("pair", seed=1))
    late = F.is_null(col("reason")) & F.fill_null(sample_position(col("again")) >= col("limit"), False)
    return frame.with_column("reason", F.when(late, DOMAIN).otherwise(col("reason"))).exclude("limit", "again")
