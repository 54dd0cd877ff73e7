"""Likeness of texts: 2-grams, bands and what is kept."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccmb.corpus.base.daft_engine import run_in_process, use_runner
from ccmb.corpus.base.recipe import TextDedupRecipe
from ccmb.corpus.pairs.filters import dropped_within_image, kept_shares
from ccmb.corpus.texts.near_duplicates import alike_within, band_hashes, jaccard

texts = st.lists(st.text("红蓝船", min_size=1, max_size=8), max_size=8)


def test_jaccard_by_hand() -> None:
    # 红色 色帆 帆船 and 红色 色帆 帆板: two of four.
    assert jaccard("红色帆船", "红色帆板") == 0.5
    assert jaccard("红", "红") == 1
    assert jaccard("红", "蓝") == 0


@given(texts, st.floats(0.1, 1))
def test_what_is_kept_of_an_image_is_unlike_and_speaks_for_all(listed: list[str], similarity: float) -> None:
    alike = alike_within(listed, similarity)
    kept = [text for text, dropped in zip(listed, alike, strict=True) if not dropped]
    assert all(
        jaccard(one, other) < similarity for one, other in itertools.combinations(kept, 2) if len(one + other) > 3
    )
    for at, (text, dropped) in enumerate(zip(listed, alike, strict=True)):
        better = [other for other, gone in zip(listed[:at], alike[:at], strict=True) if not gone]
        if len(text) > 1:
            assert dropped == any(jaccard(text, other) >= similarity for other in better)


def test_bands_are_equal_where_all_their_hashes_are() -> None:
    rng = np.random.default_rng(0)
    signatures = rng.integers(0, 2**32, (50, 12), dtype=np.uint32)
    signatures[1] = signatures[0]
    signatures[1, 5] ^= 1
    hashes = band_hashes(signatures, 4)
    assert hashes.shape == (50, 4)
    assert (hashes[0] == hashes[1]).tolist() == [True, False, True, True]
    assert len(np.unique(hashes)) == 200 - 3
    # The same hashes in another band are another number.
    assert len(np.unique(band_hashes(np.ones((1, 12), np.uint32), 4))) == 4


def test_the_best_texts_of_an_image_are_kept() -> None:
    queries = [(1, "红色帆船", 0, 0.2), (2, "海边的落日", 0, 0.9)]
    others = [(3, "一艘大船停在港口", 2, 0.0), (4, "红色帆船", 3, 0.0)]
    for order in itertools.permutations(queries + others):
        dropped = {row["pair"]: row["among"] for row in dropped_within_image(order, 0.7, 2)}
        assert dropped == {3: "too many texts of the image", 4: "near-duplicate"}
    assert dropped_within_image(queries + others, None, 9) == []


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 1000), min_size=1), st.floats(0.01, 1))
def test_no_domain_keeps_more_than_its_share(pairs_of: dict[str, int], max_share: float) -> None:
    shares = kept_shares({**pairs_of, None: 5000}, max_share)
    total = 5000 + sum(pairs_of.values())
    for domain, count in pairs_of.items():
        assert count * shares.get(domain, 1.0) == pytest.approx(min(count, max_share * total))
    assert None not in shares
    assert all(0 < share < 1 for share in shares.values())


def test_equal_work_for_any_order() -> None:
    rows = [(n, "红色帆船" * (n + 1), 2, 0.0) for n in range(6)]
    shuffled = random.Random(0).sample(rows, 6)
    assert dropped_within_image(rows, 0.9, 3) == dropped_within_image(shuffled, 0.9, 3)


def signature_errors() -> list[float]:
    """Of pairs of texts, the share of equal hashes less the Jaccard similarity that it estimates."""
    import daft

    from ccmb.corpus.texts.near_duplicates import _signed

    use_runner()
    rng = random.Random(0)
    han = [chr(code) for code in range(0x4E00, 0x5E00)]
    texts = ["".join(rng.choices(han, k=rng.randrange(10, 40))) for _ in range(300)]
    longer = [text + "".join(rng.choices(han, k=rng.randrange(len(text) // 3))) for text in texts]
    signed = [
        _signed(daft.from_pydict({"at": list(range(300)), "bare": bare_texts}), TextDedupRecipe())
        .sort("at")
        .to_pydict()["signature"]
        for bare_texts in (texts, longer)
    ]
    agreement = (np.array(signed[0]) == np.array(signed[1])).mean(axis=1)
    return [
        float(estimate) - jaccard(*pair)
        for estimate, pair in zip(agreement, zip(texts, longer, strict=True), strict=True)
    ]


def test_equal_hashes_estimate_jaccard() -> None:
    errors = np.array(run_in_process(signature_errors))
    assert abs(errors.mean()) < 0.01
    assert errors.std() < 0.045  # sqrt(0.8 * 0.2 / 80) for each
