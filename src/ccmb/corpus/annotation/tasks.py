"""Tasks for annotators, sampled from a finished corpus: does this text fit this image, or write a caption.

Positives are the pairs with the highest lower bound of the CTR. Negatives are texts of other images that nearly fit:
a model finds them likely, or they share the most characters with the texts of the image. Gold questions are clear
cases, hidden among the others: a pair with a high bound, or a text that shares nothing with the image.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ccmb.core.errors import CcmbError
from ccmb.corpus.analysis.reader import IndexedImage, indexed_images
from ccmb.corpus.analysis.statistics import image_of
from ccmb.corpus.assembly.clip_scores import Scorer
from ccmb.corpus.texts.near_duplicates import grams
from ccmb.corpus.texts.normalize import bare

Question = Literal["matching", "caption"]
Length = Literal["short", "long"]
FIELDS: dict[Length, tuple[str, ...]] = {"short": ("query",), "long": ("caption", "title", "content")}
ALIKE = 0.6  # texts with a greater similarity may well mean the same


@dataclass(frozen=True, slots=True)
class AnnotationTask:
    """One question.

    Attributes:
        id: the same in all rounds.
        key: key of the image in the corpus; `shard` and `sample` say where its file lies.
        text: the text to compare with the image; empty if a caption is to be written.
        drawn_as: the expected label: 1 fits, 0 does not fit; None for captions.
        gold: whether `drawn_as` counts as the truth, to check annotators.
    """

    id: str
    question: Question
    length: Length
    key: str
    shard: str
    sample: str
    text: str = ""
    drawn_as: int | None = None
    gold: bool = False


def sample_tasks(
    corpus: Path, length: Length, pairs: int, captions: int = 0, gold: int = 0, seed: int = 0,
    scorer: Scorer | None = None,
) -> list[AnnotationTask]:  # fmt: skip
    """Sample tasks in random order. No image has two tasks of a kind.

    Args:
        pairs: how many pairs to label; half are expected to fit, half not.
        captions: how many images to describe.
        gold: how many gold questions.

    Raises:
        CcmbError: the corpus has too few images with such texts.
    """
    rng = random.Random(f"{seed}/{length}")
    images = [image for image in indexed_images(corpus) if any(pair["field"] in FIELDS[length] for pair in image.pairs)]
    if len(images) < pairs + gold:
        raise CcmbError(f"{corpus}: {len(images):,} images have a {length} text, {pairs + gold:,} are asked for")
    rng.shuffle(images)
    images.sort(key=lambda image: -_surest(image, length)[1])
    sure, remaining = images[: gold - gold // 2], images[gold - gold // 2 :]
    apart, remaining = remaining[: gold // 2], remaining[gold // 2 :]
    chosen = rng.sample(
        remaining[:pairs], pairs
    )  # both halves from the same images: else the image would reveal the label
    fitting, unfit = chosen[: pairs - pairs // 2], chosen[pairs - pairs // 2 :]
    texts = [(index, _surest(image, length)[0]) for index, image in enumerate(images)]
    tasks = [_matching(image, length, _surest(image, length)[0], 1, True) for image in sure]
    tasks += [_matching(image, length, text, 0, True) for image, text in _nothing_shared(apart, texts, rng)]
    tasks += [_matching(image, length, _surest(image, length)[0], 1) for image in fitting]
    mined = _by_model(corpus, unfit, texts, scorer) if scorer else _by_shared(unfit, texts)
    tasks += [_matching(image, length, text, 0) for image, text in zip(unfit, mined, strict=True) if text]
    described = rng.sample(list(indexed_images(corpus)), captions) if captions else []
    tasks += [AnnotationTask(f"c-{image.row['sample']}", "caption", "long", *_location(image)) for image in described]
    rng.shuffle(tasks)
    return tasks


def _surest(image: IndexedImage, length: Length) -> tuple[str, float]:
    """The text with the highest bound of the CTR, and the bound; titles and captions have none."""
    pairs = [pair for pair in image.pairs if pair["field"] in FIELDS[length]]
    best = max(pairs, key=lambda pair: (pair["bound"] or 0.0, -len(pair["text"]), pair["text"]))
    return best["text"], best["bound"] or 0.0


def _matching(image: IndexedImage, length: Length, text: str, drawn_as: int, gold: bool = False) -> AnnotationTask:
    number, (key, shard, sample) = f"{length[0]}-{image.row['sample']}", _location(image)
    return AnnotationTask(
        number, "matching", length, key=key, shard=shard, sample=sample, text=text, drawn_as=drawn_as, gold=gold
    )


def _location(image: IndexedImage) -> tuple[str, str, str]:
    return image.row["key"], image.row["shard"], image.row["sample"]


def _own_grams(image: IndexedImage) -> list[set[str]]:
    return [grams(bare(pair["text"])) for pair in image.pairs]


def _nothing_shared(
    images: Sequence[IndexedImage], texts: Sequence[tuple[int, str]], rng: random.Random
) -> list[tuple[IndexedImage, str]]:
    """Pairs of an image and a text that shares no 2-gram with its own texts; only images that have such a text."""
    pairs = []
    for image in images:
        own = set().union(*_own_grams(image))
        for _, text in rng.sample(texts, len(texts)):
            if not own & grams(bare(text)):
                pairs.append((image, text))
                break
    return pairs


def _by_shared(images: Sequence[IndexedImage], texts: Sequence[tuple[int, str]]) -> list[str]:
    """For each image the text that shares most with its own texts and is similar to none of them; "" if none is."""
    holding: dict[str, list[int]] = defaultdict(list)
    sets = [grams(bare(text)) for _, text in texts]
    for text_index, text_grams in enumerate(sets):
        for gram in text_grams:
            holding[gram].append(text_index)
    chosen = []
    for image in images:
        own = _own_grams(image)
        shared = Counter(text_index for gram in set().union(*own) for text_index in holding.get(gram, ()))
        ranked = sorted(shared, key=lambda text_index: (-shared[text_index] / len(sets[text_index]), text_index))
        chosen.append(next((texts[text_index][1] for text_index in ranked if _differs(sets[text_index], own)), ""))
    return chosen


def _by_model(
    corpus: Path, images: Sequence[IndexedImage], texts: Sequence[tuple[int, str]], scorer: Scorer
) -> list[str]:
    """For each image the text with the highest cosine that is similar to none of its own texts; "" if none is."""
    if not images:
        return []
    images_PD = np.concatenate([scorer.encode_images([image_of(corpus, image)]) for image in images])
    texts_TD = scorer.encode_texts([text for _, text in texts])
    sets, chosen = [grams(bare(text)) for _, text in texts], []
    for image, cosines_T in zip(images, images_PD @ texts_TD.T, strict=True):
        own = _own_grams(image)
        ranked = np.argsort(-cosines_T, kind="stable")
        chosen.append(next((texts[text_index][1] for text_index in ranked if _differs(sets[text_index], own)), ""))
    return chosen


def _differs(text: set[str], own: Sequence[set[str]]) -> bool:
    return all(len(text & other) < ALIKE * len(text | other) for other in own)
