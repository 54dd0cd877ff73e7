"""From impressions to the (query, image) pairs that people click on.

The log is read twice. The first reading keeps numbers only: hashes of visitor, pair and image, position, day and
click. The bot filter and the rates need no more. The second reading collects the texts of the kept pairs.

Pairs and visitors are 64-bit hashes. Among 5 billion pairs the chance of a collision is about one half.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import daft
import numpy as np
import pyarrow as pa
from daft import DataFrame, DataType, Window, col
from daft import functions as F

from ccmb.corpus.base.daft_engine import Table, counts_by, each_bucket, hashed, top_half, union, write, write_by_hash
from ccmb.corpus.base.recipe import ClickRecipe, VisitorRecipe
from ccmb.corpus.clicks.position_bias import examination_by_position
from ccmb.corpus.clicks.rates import beta_bound, rate, wilson_bound

SECONDS_OF_A_DAY = 86_400
_PARTS = 2**20  # parts of one examination, so that sums are integers
# The two reasons of bot traffic.
CRAWLER, CLICKER = "too many impressions of a visitor", "too many clicks of a visitor"
AGAIN, DAMAGED = "seen again", "damaged"


def write_impressions(impressions: DataFrame, deepest: int, folder: Path, buckets: int) -> None:
    """Write the log as numbers, in buckets by visitor: visitor (null if unknown), pair, image, position, day, clicked.

    A damaged row gets position 0, so that later steps count it and do not use it.
    """
    known = F.not_null(col("visitor"))
    frame = impressions.with_columns(
        {"pair": hashed("query", "image_url"), "image": hashed("image_url"), "person": hashed("visitor")}
    )
    frame = frame.select(
        F.when(known, col("person")).otherwise(None).alias("visitor"),
        F.when(known, col("person")).otherwise(col("pair")).alias("place"),
        "pair",
        "image",
        F.when(col("damaged"), 0)
        .otherwise(F.clip(col("position"), 1, deepest))
        .cast(DataType.uint16())
        .alias("position"),
        F.fill_null(col("time") // SECONDS_OF_A_DAY, 0).cast(DataType.int32()).alias("day"),
        F.fill_null(col("clicked"), 0).cast(DataType.uint8()).alias("clicked"),
    )
    write_by_hash(frame, folder, "place", buckets)


def write_counts(impressions: Table, recipe: VisitorRecipe, folder: Path, buckets: int) -> dict[str, int]:
    """Count the visitors that saw each pair at each position, and those that clicked, in buckets by image.

    Repeated impressions of a pair by one visitor count once: at the best position, and as clicked if any of them was.

    Returns:
        The number of dropped rows by reason.
    """
    dropped = dict.fromkeys((DAMAGED, CRAWLER, CLICKER, AGAIN), 0)
    for _, frame in each_bucket(impressions):
        dropped[DAMAGED] += _sum(frame.select((col("position") == 0).cast(DataType.int64()).alias("n")), "n")
        frame = frame.where(col("position") > 0)
        people = frame.where(F.not_null(col("visitor")))
        visitor_reasons = _bot_reasons(people, recipe).collect()
        for reason, (_, rows) in counts_by(visitor_reasons, "reason", "rows").items():
            if reason is not None:
                dropped[reason] += rows
        bots = visitor_reasons.where(F.not_null(col("reason"))).select("visitor")
        seen = people.join(bots, on="visitor", how="anti").groupby("visitor", "pair", "image")
        once = seen.agg(
            col("position").min(), col("clicked").max(), (col("clicked").count() - 1).alias("again")
        ).collect()
        dropped[AGAIN] += _sum(once, "again")
        unknown = frame.where(F.is_null(col("visitor"))).select("pair", "image", "position", "clicked")
        seen_by = _counted(union([unknown, once.select("pair", "image", "position", "clicked")]))
        write_by_hash(seen_by, folder, "image", buckets)
    return dropped


def _sum(frame: DataFrame, column: str) -> int:
    return int(frame.agg(col(column).sum()).to_pydict()[column][0] or 0)


def _bot_reasons(people: DataFrame, recipe: VisitorRecipe) -> DataFrame:
    """Why each visitor counts as a bot: columns visitor, rows and reason (null for a person)."""
    days = people.groupby("visitor", "day").agg(
        col("clicked").count().alias("rows"), col("clicked").sum().alias("clicks")
    )
    visitors = days.groupby("visitor").agg(col("rows").sum(), col("clicks").sum(), col("rows").max().alias("busiest"))
    crawls = col("busiest") > recipe.max_impressions_per_day
    clicks = (col("rows") >= recipe.min_impressions) & (col("clicks") > recipe.max_click_share * col("rows"))
    return visitors.with_column("reason", F.when(crawls, CRAWLER).when(clicks, CLICKER).otherwise(None))


def _counted(frame: DataFrame) -> DataFrame:
    return frame.groupby("pair", "image", "position").agg(
        col("clicked").count().alias("views"), col("clicked").sum().alias("clicks")
    )


def write_positions(counts: Table, folder: Path) -> None:
    """Sum the counts over all visitors, in the same buckets."""
    for bucket, frame in each_bucket(counts):
        summed = frame.groupby("pair", "image", "position").agg(col("views").sum(), col("clicks").sum())
        write(summed, folder, bucket)


def estimate_examination(positions: Table, recipe: ClickRecipe) -> list[float]:
    """Estimate the examination by position.

    The estimate uses a sample of pairs by hash. Only pairs that were shown at two positions or more tell anything.
    """
    deepest = recipe.position.max_position
    if not recipe.position.debias:
        return [1.0] * deepest
    share = min(1.0, recipe.position.max_rows / max(1, positions.rows()))
    rows = positions.read().where(top_half(col("pair")) <= int(share * 2**32)).to_arrow()
    rows = rows.sort_by([("pair", "ascending"), ("position", "ascending")])  # sums of floats depend on the order
    pairs, position, impressions, clicks = (
        rows.column(name).to_numpy() for name in ("pair", "position", "views", "clicks")
    )
    examination = examination_by_position(
        pairs.astype(np.int64), position.astype(np.int64),
        impressions=impressions.astype(np.int64), clicks=clicks.astype(np.int64),
        min_clicks=recipe.position.min_clicks, min_examination=recipe.position.min_examination,
    )  # fmt: skip
    return [*examination.tolist(), *[float(examination[-1])] * (deepest - len(examination))]


def write_click_statistics(positions: Table, examination: list[float], recipe: ClickRecipe, folder: Path) -> None:
    """Write the click statistics of each pair: image, views, clicks, examinations, rate, bound and drop reason.

    `views` are impressions, one for each visitor; `bound` is the lower bound of the CTR. The reason of a kept pair is
    null.
    """
    # Sums of integers do not depend on the order of the rows.
    parts_looked_at = np.round(_PARTS * np.array([0.0, *examination])).astype(np.int64)

    @daft.func.batch(return_dtype=DataType.int64())
    def parts(position: daft.Series, impressions: daft.Series) -> pa.Array:
        return pa.array(parts_looked_at[_numbers(position)] * _numbers(impressions))

    @daft.func.batch(return_dtype=DataType.float64())
    def bound(clicks: daft.Series, examined: daft.Series) -> pa.Array:
        return pa.array(ctr_lower_bound(_numbers(clicks), _numbers(examined), recipe))

    @daft.func.batch(return_dtype=DataType.float64())
    def plain_rate(clicks: daft.Series, examined: daft.Series) -> pa.Array:
        return pa.array(rate(_numbers(clicks), _numbers(examined)))

    for bucket, frame in each_bucket(positions):
        frame = frame.with_column("parts", parts(col("position"), col("views")))
        frame = frame.groupby("pair", "image").agg(col("views").sum(), col("clicks").sum(), col("parts").sum())
        frame = frame.with_column("examinations", col("parts") / float(_PARTS)).exclude("parts")
        frame = frame.with_columns(
            {
                "rate": plain_rate(col("clicks"), col("examinations")),
                "bound": bound(col("clicks"), col("examinations")),
            }
        )
        frame = _best_of_each_image(frame.with_column("reason", _reason(recipe)), recipe.max_queries_per_image)
        write(frame, folder, bucket)


def _numbers(series: daft.Series) -> Any:
    return series.to_arrow().to_numpy(zero_copy_only=False)


def ctr_lower_bound(clicks: Any, examinations: Any, recipe: ClickRecipe) -> Any:
    """The lower bound of the click-through rate that the recipe names; pairs are filtered by it."""
    if recipe.ctr_lower_bound == "wilson":
        return wilson_bound(clicks, examinations, recipe.z)
    if recipe.ctr_lower_bound == "beta":
        return beta_bound(clicks, examinations, recipe.z, recipe.prior)
    return rate(clicks, examinations)


def _reason(recipe: ClickRecipe) -> daft.Expression:
    few_views, few_clicks = col("views") < recipe.min_impressions, col("clicks") < recipe.min_clicks
    unsure = col("bound") < recipe.min_ctr
    reasons = F.when(few_views, "too few views").when(few_clicks, "too few clicks")
    return reasons.when(unsure, "rate too low").otherwise(None)


def _best_of_each_image(frame: DataFrame, maximum: int) -> DataFrame:
    """Drop all pairs of an image after the best `maximum` by bound; the hash of the pair decides ties."""
    kept = F.is_null(col("reason"))
    window = Window().partition_by("image").order_by(kept, col("bound"), col("pair"), desc=[True, True, False])
    frame = frame.with_column("rank", F.row_number().over(window))
    late = kept & (col("rank") > maximum)
    return frame.with_column(
        "reason", F.when(late, "not among the best of its image").otherwise(col("reason"))
    ).exclude("rank")


def write_pair_texts(impressions: DataFrame, statistics: Table, folder: Path, buckets: int) -> None:
    """Write the texts of the kept pairs, in buckets by image: pair, image, query, image_url and page_url.

    Each kept pair was clicked on, so the clicked rows are enough. Only the hashes of the kept pairs are in memory.
    """
    kept = statistics.read().select("pair", "reason").where(F.is_null(col("reason"))).select("pair")
    clicked = impressions.where(~col("damaged") & (col("clicked") == 1)).with_column(
        "pair", hashed("query", "image_url")
    )
    texts = clicked.join(kept, on="pair", how="semi").groupby("pair").agg(*_FIRST_TEXTS)
    write_by_hash(texts.with_column("image", hashed("image_url")), folder, "image", buckets)


# The rows of a pair are equal but for the pages that the image stood on.
_FIRST_TEXTS = (col("query").min(), col("image_url").min(), col("page_url").min())


def write_queries(pair_texts: Table, statistics: Table, folder: Path) -> None:
    """Write the kept pairs with their texts and click statistics, each once, in the same buckets."""
    for bucket, frame in each_bucket(pair_texts):
        kept = statistics.read(bucket).select("pair", "image", "views", "clicks", "bound")
        write(kept.join(frame.groupby("pair").agg(*_FIRST_TEXTS), on="pair").exclude("pair"), folder, bucket)
