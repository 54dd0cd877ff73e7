"""Metrics of captions against those that people wrote: BLEU, ROUGE-L and CIDEr-D, and how varied they are.

The formulas are those of the COCO caption evaluation (Chen et al. 2015, arXiv 1504.00325), in percent. Chinese has no
spaces, and what counts as a word changes every metric: the main ones are on characters, and those on words say whose
words. METEOR and SPICE are left out, since their stems, synonyms and parsers are English.
"""

from __future__ import annotations

import importlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ccmb.core.errors import UsageError

Tokens = Sequence[str]
Tokenizer = Callable[[str], list[str]]

ORDERS = 4  # of n-grams: of one to four tokens
SIGMA = 6.0  # of CIDEr-D's penalty of other lengths
BETA = 1.2  # weight of recall in ROUGE-L
CHARACTER = re.compile(r"[a-z0-9]+|[^\W_]")
SEGMENTERS = ("rjieba", "jieba")


def characters(text: str) -> list[str]:
    """Each Chinese character, and each run of Latin letters or digits; no punctuation."""
    return CHARACTER.findall(_plain(text))


def words() -> tuple[str, Tokenizer]:
    """The name of the word segmenter that is installed, and words by it; no punctuation.

    Raises:
        UsageError: there is none.
    """
    for name in SEGMENTERS:
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        return name, partial(_words_by, library.cut)
    raise UsageError("metrics on words need a segmenter; install one with pip install 'ccmb[captions]'")


def _words_by(cut: Callable[[str], Iterable[str]], text: str) -> list[str]:
    return [word for word in cut(_plain(text)) if CHARACTER.search(word)]


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Counts of each of N captions, from which metrics of any selection of them are made.

    Attributes:
        right, total: (N, 4) n-grams of one to four tokens that stand in a reference too, and all.
        length, reference: (N,) tokens of the caption, and of the reference that is nearest in length.
        rouge, cider: (N,) ROUGE-L and CIDEr-D, in [0, 1] and [0, 10]; CIDEr-D is no number where one image was
            scored alone, since what an n-gram is worth it learns from how few images have it.
    """

    right: np.ndarray
    total: np.ndarray
    length: np.ndarray
    reference: np.ndarray
    rouge: np.ndarray
    cider: np.ndarray

    def metrics(self, weight_N: np.ndarray | None = None) -> dict[str, float]:
        """BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D in percent; `weight_N` is how many times each caption counts."""
        weight_N = np.ones(len(self.length)) if weight_N is None else weight_N
        values = {f"BLEU-{n}": 100 * value for n, value in enumerate(self._bleu(weight_N), start=1)}
        for name, value_N in (("ROUGE-L", self.rouge), ("CIDEr-D", self.cider)):
            values[name] = float(100 * (weight_N @ value_N) / weight_N.sum())
        return values

    def _bleu(self, weight_N: np.ndarray) -> list[float]:
        """BLEU of all captions together: the geometric mean of n-gram precisions, less where captions are too short."""
        right, total = weight_N @ self.right, weight_N @ self.total
        length, reference = weight_N @ self.length, weight_N @ self.reference
        brevity = math.exp(min(0.0, 1 - reference / length)) if length else 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(total > 0, right / np.maximum(total, 1), 0.0)
            means = np.exp(np.cumsum(np.log(precision)) / np.arange(1, ORDERS + 1))
        return [float(brevity * mean) for mean in means]


def score_captions(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> CaptionScores:
    """Score N captions, each against one or more references; the worth of n-grams is learned from all references."""
    grams = [_ngrams(caption) for caption in captions]
    reference_grams = [[_ngrams(one) for one in texts] for texts in references]
    counts = [_bleu_counts(own, others) for own, others in zip(grams, reference_grams, strict=True)]
    lengths = [len(caption) for caption in captions]
    nearest = [
        min((abs(len(one) - length), len(one)) for one in texts)[1]
        for length, texts in zip(lengths, references, strict=True)
    ]
    return CaptionScores(
        right=np.array([right for right, _ in counts], dtype=float),
        total=np.array([total for _, total in counts], dtype=float),
        length=np.array(lengths, dtype=float),
        reference=np.array(nearest, dtype=float),
        rouge=np.array([rouge_l(caption, texts) for caption, texts in zip(captions, references, strict=True)]),
        cider=np.array(_cider(grams, reference_grams)),
    )


def distinct(captions: Sequence[Tokens], order: int) -> float:
    """Share of different n-grams among all n-grams of so many tokens, in percent; 0 where there are none."""
    grams = [tuple(tokens[at : at + order]) for tokens in captions for at in range(len(tokens) - order + 1)]
    return 100 * len(set(grams)) / len(grams) if grams else 0.0


def rouge_l(caption: Tokens, references: Sequence[Tokens]) -> float:
    """F-measure of the longest common subsequence, of the best precision and the best recall over the references."""
    if not caption:
        return 0.0
    common = [(_longest_common(caption, one), len(one)) for one in references]
    precision = max(length for length, _ in common) / len(caption)
    recall = max(length / whole if whole else 0.0 for length, whole in common)
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(one: Tokens, other: Tokens) -> int:
    lengths = [0] * (len(other) + 1)
    for token in one:
        before = 0
        for index, opposite in enumerate(other, start=1):
            before, lengths[index] = (
                lengths[index],
                before + 1 if token == opposite else max(lengths[index], lengths[index - 1]),
            )
    return lengths[-1]


# By order, from one token on: how often each n-gram comes.
_Ngrams = list[Counter[tuple[str, ...]]]


def _ngrams(tokens: Tokens) -> _Ngrams:
    return [
        Counter(tuple(tokens[at : at + order]) for at in range(len(tokens) - order + 1))
        for order in range(1, ORDERS + 1)
    ]


def _bleu_counts(caption: _Ngrams, references: Sequence[_Ngrams]) -> tuple[list[int], list[int]]:
    """N-grams of a caption that stand in a reference, each as often as in the one that has it most, and all."""
    right = [
        sum(min(count, max(reference[order][gram] for reference in references)) for gram, count in grams.items())
        for order, grams in enumerate(caption)
    ]
    return right, [grams.total() for grams in caption]


def _cider(captions: Sequence[_Ngrams], references: Sequence[Sequence[_Ngrams]]) -> list[float]:
    """CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726) of each caption, in [0, 10]; no number of a single one."""
    if len(references) == 1:
        return [math.nan]
    images = Counter(
        gram for texts in references for gram in {gram for one in texts for grams in one for gram in grams}
    )
    worth = {gram: math.log(len(references)) - math.log(count) for gram, count in images.items()}
    unseen = math.log(max(1, len(references)))
    scores = []
    for caption, texts in zip(captions, references, strict=True):
        own, likeness = _weigh(caption, worth, unseen), 0.0
        for reference in texts:
            apart = caption[0].total() - reference[0].total()
            alike = np.mean([_alike(a, b) for a, b in zip(own, _weigh(reference, worth, unseen), strict=True)])
            likeness += float(alike) * math.exp(-(apart**2) / (2 * SIGMA**2))
        scores.append(10 * likeness / len(texts))
    return scores


_Weighed = tuple[dict[tuple[str, ...], float], float]


def _weigh(ngrams: _Ngrams, worth: dict[tuple[str, ...], float], unseen: float) -> list[_Weighed]:
    """TF-IDF vector of each n-gram order, with its norm: counts of n-grams times what each is worth."""
    vectors = []
    for grams in ngrams:
        weights = {gram: count * worth.get(gram, unseen) for gram, count in grams.items()}
        vectors.append((weights, math.sqrt(sum(weight**2 for weight in weights.values()))))
    return vectors


def _alike(caption: _Weighed, reference: _Weighed) -> float:
    """Cosine, in which no n-gram of the caption counts more than in the reference."""
    (own, own_norm), (other, other_norm) = caption, reference
    if not own_norm or not other_norm:
        return 0.0
    return sum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other) / (
        own_norm * other_norm
    )
