"""Decoding on toy language models whose best captions are known by trying all."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ccmb.core.errors import UsageError
from ccmb.tasks.captioning.decoding import Decoding, Vocabulary, decode_captions
from tests.helpers.exact import PROOFS, same

pytestmark = PROOFS

WORDS = 6  # start, end, one that never comes, and three words
VOCABULARY = Vocabulary(0, 1, (0, 2))


class Toy:
    """A language model whose next word depends on the last two and on the image; random, but for a seed."""

    def __init__(self, images: int, seed: int, sharpness: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = sharpness * torch.randn(images, WORDS, WORDS, WORDS, generator=generator)
        self.image = torch.arange(images)
        self.last = torch.zeros(images, 2, dtype=torch.long)

    def advance(self, tokens_N: Tensor) -> Tensor:
        self.last = torch.stack([self.last[:, 1], tokens_N], 1)
        return self.table[self.image, self.last[:, 0], self.last[:, 1]]

    def choose(self, index_M: Tensor) -> None:
        self.image, self.last = self.image[index_M], self.last[index_M]

    def log_probability(self, image: int, caption: tuple[int, ...]) -> float:
        """Log-probability of a caption with its end, summed word by word."""
        total, before, last = 0.0, 0, 0
        for token in (*caption, VOCABULARY.end):
            logits = self.table[image, before, last].clone()
            logits[list(VOCABULARY.never)] = -torch.inf
            total += float(logits.log_softmax(0)[token])
            before, last = last, token
        return total


def every_caption(options: Decoding) -> list[tuple[int, ...]]:
    lengths = range(options.min_length, options.max_length + 1)
    return [caption for length in lengths for caption in itertools.product((3, 4, 5), repeat=length)]


def repeats(caption: tuple[int, ...], size: int) -> bool:
    runs = [caption[at : at + size] for at in range(len(caption) - size + 1)]
    return len(set(runs)) < len(runs)


@given(
    seed=st.integers(0, 10_000),
    penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    shortest=st.integers(0, 3),
    block=st.sampled_from([0, 1, 2]),
)
@settings(max_examples=40, deadline=None)
def test_beam_search_that_is_wide_enough_finds_the_best_of_all(
    seed: int, penalty: float, shortest: int, block: int
) -> None:
    options = Decoding(
        "beam", beams=150, candidates=10, max_length=4, min_length=shortest, length_penalty=penalty, block_ngrams=block
    )
    toy = Toy(2, seed)
    results = decode_captions(toy, 2, VOCABULARY, options)
    for image, of_image in enumerate(results):
        scored = sorted(
            (-toy.log_probability(image, caption) / (len(caption) + 1) ** penalty, caption)
            for caption in every_caption(options)
            if not (block and repeats(caption, block))
        )
        best = [-cost for cost, _ in scored[:10]]
        assert [decoded.score for decoded in of_image[: len(best)]] == same(best)
        for decoded in of_image[: len(best)]:
            assert decoded.log_probability == same(toy.log_probability(image, decoded.tokens))


@given(seed=st.integers(0, 10_000), beams=st.integers(1, 4), penalty=st.sampled_from([0.0, 1.0]))
@settings(max_examples=40, deadline=None)
def test_narrow_beams_are_those_of_a_plain_search(seed: int, beams: int, penalty: float) -> None:
    """Against one that follows lists of words, never stops early, and knows no batch."""
    options = Decoding("beam", beams=beams, candidates=beams, max_length=5, min_length=1, length_penalty=penalty)
    toy = Toy(3, seed)
    results = decode_captions(toy, 3, VOCABULARY, options)
    for image in range(3):
        open_, finished = [()], []
        for length in range(options.max_length + 1):
            if length >= options.min_length:
                finished += open_
            steps = [(*caption, word) for caption in open_ for word in (3, 4, 5)]
            open_ = sorted(steps, key=lambda caption: -_begun(toy, image, caption))[:beams]
        scores = sorted(
            (toy.log_probability(image, caption) / (len(caption) + 1) ** penalty for caption in finished),
            reverse=True,
        )
        assert [decoded.score for decoded in results[image]] == same(scores[:beams])


def _begun(toy: Toy, image: int, caption: tuple[int, ...]) -> float:
    """Log-probability of a beginning: that of the caption without its end."""
    before, last = ([0, 0, *caption])[-2:]
    logits = toy.table[image, before, last].clone()
    logits[list(VOCABULARY.never)] = -torch.inf
    return toy.log_probability(image, caption) - float(logits.log_softmax(0)[VOCABULARY.end])


def test_greedy_takes_the_likeliest_word_each_time() -> None:
    options = Decoding("greedy", max_length=6)
    for seed in range(20):
        toy = Toy(1, seed)
        [[caption]] = decode_captions(toy, 1, VOCABULARY, options)
        before, last, expected = 0, 0, []
        while True:
            logits = toy.table[0, before, last].clone()
            logits[[0, 2, *([1] if not expected else [])]] = -torch.inf
            word = 1 if len(expected) == options.max_length else int(logits.argmax())
            if word == VOCABULARY.end:
                break
            expected.append(word)
            before, last = last, word
        assert list(caption.tokens) == expected


def test_samples_come_as_often_as_they_are_likely() -> None:
    toy, count = Toy(1, 3, sharpness=1.0), 20_000
    log = toy.table[0, 0, 0].clone()
    log[[0, 1, 2]] = -torch.inf
    expected = log.softmax(0)[3:]
    options = Decoding("sample", candidates=count, max_length=1)
    drawn = _first_words(toy, options)
    assert drawn.tolist() == pytest.approx(expected.tolist(), abs=0.02)
    assert (drawn > 0).all()


def _first_words(toy: Toy, options: Decoding) -> Tensor:
    """Share of each word among the first ones, counted before equal captions become one."""
    from ccmb.tasks.captioning import decoding

    log = toy.table[0, 0, 0][None].clone()
    log[:, [0, 1, 2]] = -torch.inf
    chance = decoding._chance(options, 0)[:, 0]
    words = decoding._draw(log.expand(len(chance), -1), chance, options)
    return torch.bincount(words, minlength=WORDS)[3:] / len(chance)


def test_top_k_and_top_p_leave_only_the_likeliest() -> None:
    toy = Toy(1, 3, sharpness=1.0)
    order = toy.table[0, 0, 0][3:].argsort(descending=True)
    share = _first_words(toy, Decoding("sample", candidates=2000, max_length=1, top_k=2))
    assert share[order[2]] == 0
    assert share[order[1]] > 0
    share = _first_words(toy, Decoding("sample", candidates=2000, max_length=1, top_p=1e-6))
    assert share[order[0]] == 1
    cold = _first_words(toy, Decoding("sample", candidates=2000, max_length=1, temperature=1e-3))
    assert cold[order[0]] == 1


def test_equal_seeds_sample_alike_in_whatever_batch() -> None:
    options = Decoding("sample", candidates=4, max_length=6, seed=5)
    together = decode_captions(Toy(3, 1), 3, VOCABULARY, options)
    assert together == decode_captions(Toy(3, 1), 3, VOCABULARY, options)
    assert together != decode_captions(Toy(3, 1), 3, VOCABULARY, Decoding("sample", candidates=4, max_length=6, seed=6))
    toy = Toy(3, 1)
    toy.choose(torch.tensor([2]))
    assert decode_captions(toy, 1, VOCABULARY, options, first=2) == together[2:]


@pytest.mark.parametrize("decode", ["beam", "greedy", "sample"])
def test_limits_hold_even_where_no_word_is_left(decode: str) -> None:
    several = 1 if decode == "greedy" else 3
    options = Decoding(decode, beams=3, candidates=several, max_length=8, min_length=6, block_ngrams=1)
    for captions in decode_captions(Toy(4, 0), 4, VOCABULARY, options):
        for caption in captions:
            assert len(caption.tokens) == 3  # there are but three words, and none may come twice
            assert math.isfinite(caption.log_probability)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beams": 0}, "beams is 0"),
        ({"candidates": 6}, "6, but beam search follows 5 beams"),
        ({"decode": "greedy", "candidates": 2}, "one candidate"),
        ({"decode": "bean"}, "did you mean 'beam'"),
        ({"max_length": 3, "min_length": 4}, "above max_length"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
    ],
)
def test_senseless_options_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Decoding(**values)  # type: ignore[arg-type]
