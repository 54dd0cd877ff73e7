"""Texts that are alike: MinHash over character 2-grams across the corpus, and against texts of test sets.

A text is dropped if, among the texts that share one of its bands, the one with the smallest hash is another and indeed
alike. So the result depends on no order, and of each cluster the smallest stays, whatever chain of likenesses leads to
it: what connected components would keep, from group-bys alone. (Broder, "On the resemblance and containment of
documents", 1997, for MinHash; bands as in Leskovec et al., "Mining of Massive Datasets", chapter 3.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import daft
import numpy as np
import pyarrow as pa
from daft import DataFrame, DataType, col
from daft import functions as F
from numpy.typing import NDArray

from ccmb.corpus.base.daft_engine import Table, each_bucket, hashed, union, write, write_by_hash
from ccmb.corpus.base.recipe import DedupRecipe, TextRecipe
from ccmb.corpus.texts.normalize import bare, clean

NGRAM = 2
_MULTIPLIER, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


def jaccard(one: str, other: str) -> float:
    """Share of the character 2-grams of either text that both have; 1 for equal texts."""
    ours, theirs = grams(one), grams(other)
    return _overlap(ours, theirs) if ours or theirs else float(one == other)


def grams(text: str) -> set[str]:
    return {text[at : at + NGRAM] for at in range(len(text) - NGRAM + 1)}


def write_signatures(texts: Table, recipe: DedupRecipe, folder: Path) -> None:
    """Of each text that is long enough, once: key, whether likeness across pictures drops it (`near`), MinHash.

    Args:
        texts: rows in buckets by key: key, bare, field.
    """
    for bucket, frame in each_bucket(texts):
        long = frame.where(F.length(col("bare")) >= min(recipe.min_characters, recipe.min_test_characters))
        near = col("field").is_in(list(recipe.fields)) & (F.length(col("bare")) >= recipe.min_characters)
        once = long.with_column("near", near.cast(DataType.int32())).groupby("key")
        once = once.agg(col("bare").min(), col("near").max())
        write(_signed(once, recipe).exclude("bare"), folder, bucket)


def _signed(frame: DataFrame, recipe: DedupRecipe) -> DataFrame:
    """Daft parts n-grams at blanks, so that one is put between characters; one at the end would be a gram more."""
    spaced = F.strip(F.regexp_replace(col("bare"), "(.)", "$1 "))
    count = recipe.bands * recipe.rows_per_band
    hashes = F.minhash(spaced, num_hashes=count, ngram_size=NGRAM, hash_function="xxhash3_64")
    return frame.with_column("signature", hashes.cast(DataType.list(DataType.uint32())))


def write_bands(signatures: Table, recipe: DedupRecipe, folder: Path, buckets: int) -> None:
    """A row (band, key, near) for each band of each signature, in buckets by band."""
    for _, frame in each_bucket(signatures):
        write_by_hash(_banded(frame, recipe), folder, "band", buckets)


def _banded(frame: DataFrame, recipe: DedupRecipe) -> DataFrame:
    @daft.func.batch(return_dtype=DataType.list(DataType.uint64()))
    def bands(signatures: daft.Series) -> pa.Array:
        hashes = band_hashes(_matrix(signatures), recipe.bands)
        return pa.FixedSizeListArray.from_arrays(pa.array(hashes.ravel()), recipe.bands).cast(
            pa.large_list(pa.uint64())
        )

    return frame.with_column("band", bands(col("signature"))).exclude("signature").explode("band")


def _matrix(signatures: daft.Series) -> NDArray[np.uint32]:
    found = signatures.to_arrow()
    return np.asarray(found.flatten().to_numpy().reshape(len(found), -1) if len(found) else np.zeros((0, 1), np.uint32))


def band_hashes(signatures: NDArray[np.uint32], bands: int) -> NDArray[np.uint64]:
    """One number for each band of each signature: (N, bands). Equal ones, at different places, differ."""
    parts = signatures.reshape(len(signatures), bands, -1).astype(np.uint64)
    found = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), parts.shape[:2]) * _MULTIPLIER
    for row in range(parts.shape[2]):
        found = (found ^ parts[:, :, row]) * _MULTIPLIER
        found = found ^ (found >> _SHIFT)
    return found


def write_compared(bands: Table, folder: Path, buckets: int) -> None:
    """Pairs (key, other) of texts that share a band, `other` being the smallest of it, in buckets by key."""
    for _, frame in each_bucket(bands):
        frame = frame.where(col("near") == 1)
        first = frame.groupby("band").agg(col("key").min().alias("other"), col("near").count().alias("texts"))
        pairs = frame.join(first.where(col("texts") > 1), on="band").where(col("key") != col("other"))
        write_by_hash(pairs.select("key", "other"), folder, "key", buckets)


def write_half_signed(compared: Table, signatures: Table, folder: Path, buckets: int) -> None:
    """The pairs, once each, with the signature of `key`, in buckets by `other`."""
    for bucket, frame in each_bucket(compared):
        once = frame.groupby("key", "other").agg(col("key").count().alias("bands")).collect()
        ours = signatures.read(bucket).select("key", "signature")
        write_by_hash(once.join(ours, on="key"), folder, "other", buckets)


def write_near_duplicates(
    half_signed: Table, signatures: Table, similarity: float | None, folder: Path, buckets: int
) -> None:
    """Keys of texts that are alike to a smaller one, in buckets by key; none if no similarity is given."""
    for bucket, frame in each_bucket(half_signed):
        theirs = signatures.read(bucket).select(col("key").alias("other"), col("signature").alias("others"))
        found = _alike(frame.join(theirs, on="other"), 2.0 if similarity is None else similarity)
        write_by_hash(found, folder, "key", buckets)


@daft.func.batch(return_dtype=DataType.float64())
def _agreement(one: daft.Series, other: daft.Series) -> pa.Array:
    """Share of equal hashes of two signatures, which estimates Jaccard."""
    return pa.array((_matrix(one) == _matrix(other)).mean(axis=1, dtype=np.float64))


def _alike(pairs: DataFrame, similarity: float) -> DataFrame:
    """The keys of pairs (key, signature, others) that agree in so large a share."""
    found = pairs.with_column("agreement", _agreement(col("signature"), col("others")))
    return found.where(col("agreement") >= similarity).groupby("key").agg(col("agreement").max())


def write_test_duplicates(
    test_texts: Sequence[str],
    signatures: Table,
    bands: Table,
    text: TextRecipe,
    recipe: DedupRecipe,
    folder: Path,
    buckets: int,
) -> None:
    """Keys of test texts and of all texts that are alike to one, in buckets by key."""
    barely = {bare(clean(one, text.to_simplified)) for one in test_texts}
    long = sorted(one for one in barely if len(one) >= recipe.min_test_characters)
    tests = daft.from_pydict({"bare": pa.array(long, pa.large_string())}).with_column("key", hashed("bare"))
    exact = tests.select("key", daft.lit(1.0).alias("agreement"))
    if recipe.corpus_threshold is None or not long:
        write_by_hash(exact, folder, "key", buckets)
        return
    tests = _signed(tests, recipe).exclude("bare").with_column("near", daft.lit(1).cast(DataType.int32())).collect()
    test_bands = _banded(tests, recipe).select("band", col("key").alias("other")).collect()
    frames = [frame.join(test_bands, on="band") for _, frame in each_bucket(bands)]
    compared = union(frames).groupby("key", "other").agg(col("near").count().alias("bands")).collect()
    theirs = tests.select(col("key").alias("other"), col("signature").alias("others"))
    signed = compared.join(signatures.read().select("key", "signature"), on="key").join(theirs, on="other")
    write_by_hash(union([exact, _alike(signed, recipe.corpus_threshold)]), folder, "key", buckets)


def alike_within(texts: Sequence[str], similarity: float) -> list[bool]:
    """Of texts in the order in which they are preferred, whether each is alike to a better one that is kept."""
    kept: list[set[str]] = []
    found = []
    for text in texts:
        mine = grams(text)
        alike = any(_overlap(mine, other) >= similarity for other in kept)
        if not alike:
            kept.append(mine)
        found.append(alike)
    return found


def _overlap(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 0.0
