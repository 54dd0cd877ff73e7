"""Near-duplicate texts: MinHash over character 2-grams, within the corpus and against texts of test sets.

Texts that share a band are compared with the one of them that has the smallest hash. A text is dropped if that one is
another text and similar enough. So the result does not depend on any order. Of each cluster the smallest text stays,
whatever chain of similar texts leads to it. Connected components would keep the same, but this needs only group-bys.
(MinHash: Broder, "On the resemblance and containment of documents", 1997. Bands: Leskovec et al., "Mining of Massive
Datasets", chapter 3.)
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
from ccmb.corpus.base.recipe import TextDedupRecipe, TextRecipe
from ccmb.corpus.texts.normalize import bare, clean

NGRAM = 2
_MULTIPLIER, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


def jaccard(one: str, other: str) -> float:
    """Jaccard similarity of the character 2-grams of two texts; 1 for equal texts."""
    one_grams, other_grams = grams(one), grams(other)
    return _overlap(one_grams, other_grams) if one_grams or other_grams else float(one == other)


def grams(text: str) -> set[str]:
    return {text[at : at + NGRAM] for at in range(len(text) - NGRAM + 1)}


def write_signatures(texts: Table, recipe: TextDedupRecipe, folder: Path) -> None:
    """Write each text that is long enough once: key, MinHash signature and `near`.

    `near` is 1 if near-duplicates across images are dropped for the field of the text, else 0.

    Args:
        texts: rows in buckets by key: key, bare, field.
    """
    for bucket, frame in each_bucket(texts):
        long = frame.where(F.length(col("bare")) >= min(recipe.min_characters, recipe.min_test_characters))
        near = col("field").is_in(list(recipe.fields)) & (F.length(col("bare")) >= recipe.min_characters)
        once = long.with_column("near", near.cast(DataType.int32())).groupby("key")
        once = once.agg(col("bare").min(), col("near").max())
        write(_signed(once, recipe).exclude("bare"), folder, bucket)


def _signed(frame: DataFrame, recipe: TextDedupRecipe) -> DataFrame:
    """Add the MinHash signature of `bare`.

    Daft builds n-grams of words. So blanks are put between characters, and none at the end, which would add a gram.
    """
    spaced = F.strip(F.regexp_replace(col("bare"), "(.)", "$1 "))
    count = recipe.bands * recipe.rows_per_band
    hashes = F.minhash(spaced, num_hashes=count, ngram_size=NGRAM, hash_function="xxhash3_64")
    return frame.with_column("signature", hashes.cast(DataType.list(DataType.uint32())))


def write_bands(signatures: Table, recipe: TextDedupRecipe, folder: Path, buckets: int) -> None:
    """Write a row (band, key, near) for each band of each signature, in buckets by band."""
    for _, frame in each_bucket(signatures):
        write_by_hash(_banded(frame, recipe), folder, "band", buckets)


def _banded(frame: DataFrame, recipe: TextDedupRecipe) -> DataFrame:
    @daft.func.batch(return_dtype=DataType.list(DataType.uint64()))
    def bands(signatures: daft.Series) -> pa.Array:
        hashes = band_hashes(_matrix(signatures), recipe.bands)
        return pa.FixedSizeListArray.from_arrays(pa.array(hashes.ravel()), recipe.bands).cast(
            pa.large_list(pa.uint64())
        )

    return frame.with_column("band", bands(col("signature"))).exclude("signature").explode("band")


def _matrix(signatures: daft.Series) -> NDArray[np.uint32]:
    array = signatures.to_arrow()
    return np.asarray(array.flatten().to_numpy().reshape(len(array), -1) if len(array) else np.zeros((0, 1), np.uint32))


def band_hashes(signatures: NDArray[np.uint32], bands: int) -> NDArray[np.uint64]:
    """A hash for each band of each signature: (N, bands). Equal bands at different positions have different hashes."""
    parts = signatures.reshape(len(signatures), bands, -1).astype(np.uint64)
    hashes = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), parts.shape[:2]) * _MULTIPLIER
    for row in range(parts.shape[2]):
        hashes = (hashes ^ parts[:, :, row]) * _MULTIPLIER
        hashes = hashes ^ (hashes >> _SHIFT)
    return hashes


def write_compared(bands: Table, folder: Path, buckets: int) -> None:
    """Write pairs (key, other) of texts that share a band, in buckets by key; `other` is the smallest of the band."""
    for _, frame in each_bucket(bands):
        frame = frame.where(col("near") == 1)
        first = frame.groupby("band").agg(col("key").min().alias("other"), col("near").count().alias("texts"))
        pairs = frame.join(first.where(col("texts") > 1), on="band").where(col("key") != col("other"))
        write_by_hash(pairs.select("key", "other"), folder, "key", buckets)


def write_half_signed(compared: Table, signatures: Table, folder: Path, buckets: int) -> None:
    """Write each pair once with the signature of `key`, in buckets by `other`."""
    for bucket, frame in each_bucket(compared):
        once = frame.groupby("key", "other").agg(col("key").count().alias("bands")).collect()
        own_signatures = signatures.read(bucket).select("key", "signature")
        write_by_hash(once.join(own_signatures, on="key"), folder, "other", buckets)


def write_near_duplicates(
    half_signed: Table, signatures: Table, similarity: float | None, folder: Path, buckets: int
) -> None:
    """Write the keys of texts that are near-duplicates of a smaller one, in buckets by key.

    Args:
        similarity: of near-duplicates at least; None finds none.
    """
    for bucket, frame in each_bucket(half_signed):
        other_signatures = signatures.read(bucket).select(col("key").alias("other"), col("signature").alias("others"))
        duplicates = _alike(frame.join(other_signatures, on="other"), 2.0 if similarity is None else similarity)
        write_by_hash(duplicates, folder, "key", buckets)


@daft.func.batch(return_dtype=DataType.float64())
def _agreement(one: daft.Series, other: daft.Series) -> pa.Array:
    """Share of equal hashes of two signatures, which estimates the Jaccard similarity."""
    return pa.array((_matrix(one) == _matrix(other)).mean(axis=1, dtype=np.float64))


def _alike(pairs: DataFrame, similarity: float) -> DataFrame:
    """The keys of pairs (key, signature, others) whose signatures agree in at least the share `similarity`."""
    compared = pairs.with_column("agreement", _agreement(col("signature"), col("others")))
    return compared.where(col("agreement") >= similarity).groupby("key").agg(col("agreement").max())


def write_test_duplicates(
    test_texts: Sequence[str],
    signatures: Table,
    bands: Table,
    text: TextRecipe,
    recipe: TextDedupRecipe,
    folder: Path,
    buckets: int,
) -> None:
    """Write the keys of test texts and of all their near-duplicates, in buckets by key."""
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
    test_signatures = tests.select(col("key").alias("other"), col("signature").alias("others"))
    signed = compared.join(signatures.read().select("key", "signature"), on="key").join(test_signatures, on="other")
    write_by_hash(union([exact, _alike(signed, recipe.corpus_threshold)]), folder, "key", buckets)


def alike_within(texts: Sequence[str], similarity: float) -> list[bool]:
    """Whether each text is a near-duplicate of an earlier text that is kept. Better texts come first."""
    kept: list[set[str]] = []
    alike_flags = []
    for text in texts:
        text_grams = grams(text)
        alike = any(_overlap(text_grams, other) >= similarity for other in kept)
        if not alike:
            kept.append(text_grams)
        alike_flags.append(alike)
    return alike_flags


def _overlap(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 0.0
