"""Tasks for annotators, sampled from a finished corpus: does this text fit this picture, or write a caption.

Positives are the pairs with the highest lower bound of the CTR. Negatives are texts of other pictures that nearly fit:
a model finds them likely, or they share the most characters with the texts of the picture. Gold questions are clear
cases, hidden among the others: a pair with a high bound, or a text that shares nothing with the picture.
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
from ccmb.corpus.analysis.reader import IndexedPicture, indexed_pictures
from ccmb.corpus.analysis.statistics import picture_of
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
        key: key of the picture in the corpus; `shard` and `sample` say where its file lies.
        text: the text to compare with the picture; empty if a caption is to be written.
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
    """Sample tasks in random order. No picture has two tasks of a kind.

    Args:
        pairs: how many pairs to label; half are expected to fit, half not.
        captions: how many pictures to describe.
        gold: how many gold questions.

    Raises:
        CcmbError: the corpus has too few pictures with such texts.
    """
    rng = random.Random(f"{seed}/{length}")
    pictures = [
        picture
        for picture in indexed_pictures(corpus)
        if any(pair["field"] in FIELDS[length] for pair in picture.pairs)
    ]
    if len(pictures) < pairs + gold:
        raise CcmbError(f"{corpus}: {len(pictures):,} pictures have a {length} text, {pairs + gold:,} are asked for")
    rng.shuffle(pictures)
    pictures.sort(key=lambda picture: -_surest(picture, length)[1])
    sure, remaining = pictures[: gold - gold // 2], pictures[gold - gold // 2 :]
    apart, remaining = remaining[: gold // 2], remaining[gold // 2 :]
    chosen = rng.sample(
        remaining[:pairs], pairs
    )  # both halves from the same pictures: else the picture would reveal the label
    fitting, unfit = chosen[: pairs - pairs // 2], chosen[pairs - pairs // 2 :]
    texts = [(index, _surest(picture, length)[0]) for index, picture in enumerate(pictures)]
    tasks = [_matching(picture, length, _surest(picture, length)[0], 1, True) for picture in sure]
    tasks += [_matching(picture, length, text, 0, True) for picture, text in _nothing_shared(apart, texts, rng)]
    tasks += [_matching(picture, length, _surest(picture, length)[0], 1) for picture in fitting]
    mined = _by_model(corpus, unfit, texts, scorer) if scorer else _by_shared(unfit, texts)
    tasks += [_matching(picture, length, text, 0) for picture, text in zip(unfit, mined, strict=True) if text]
    described = rng.sample(list(indexed_pictures(corpus)), captions) if captions else []
    tasks += [
        AnnotationTask(f"c-{picture.row['sample']}", "caption", "long", *_location(picture)) for picture in described
    ]
    rng.shuffle(tasks)
    return tasks


def _surest(picture: IndexedPicture, length: Length) -> tuple[str, float]:
    """The text with the highest bound of the CTR, and the bound; titles and captions have none."""
    pairs = [pair for pair in picture.pairs if pair["field"] in FIELDS[length]]
    best = max(pairs, key=lambda pair: (pair["bound"] or 0.0, -len(pair["text"]), pair["text"]))
    return best["text"], best["bound"] or 0.0


def _matching(picture: IndexedPicture, length: Length, text: str, drawn_as: int, gold: bool = False) -> AnnotationTask:
    number, (key, shard, sample) = f"{length[0]}-{picture.row['sample']}", _location(picture)
    return AnnotationTask(
        number, "matching", length, key=key, shard=shard, sample=sample, text=text, drawn_as=drawn_as, gold=gold
    )


def _location(picture: IndexedPicture) -> tuple[str, str, str]:
    return picture.row["key"], picture.row["shard"], picture.row["sample"]


def _own_grams(picture: IndexedPicture) -> list[set[str]]:
    return [grams(bare(pair["text"])) for pair in picture.pairs]


def _nothing_shared(
    pictures: Sequence[IndexedPicture], texts: Sequence[tuple[int, str]], rng: random.Random
) -> list[tuple[IndexedPicture, str]]:
    """Pairs of a picture and a text that shares no 2-gram with its own texts; only pictures that have such a text."""
    pairs = []
    for picture in pictures:
        own = set().union(*_own_grams(picture))
        for _, text in rng.sample(texts, len(texts)):
            if not own & grams(bare(text)):
                pairs.append((picture, text))
                break
    return pairs


def _by_shared(pictures: Sequence[IndexedPicture], texts: Sequence[tuple[int, str]]) -> list[str]:
    """For each picture the text that shares most with its own texts and is similar to none of them; "" if none is."""
    holding: dict[str, list[int]] = defaultdict(list)
    sets = [grams(bare(text)) for _, text in texts]
    for text_index, text_grams in enumerate(sets):
        for gram in text_grams:
            holding[gram].append(text_index)
    chosen = []
    for picture in pictures:
        own = _own_grams(picture)
        shared = Counter(text_index for gram in set().union(*own) for text_index in holding.get(gram, ()))
        ranked = sorted(shared, key=lambda text_index: (-shared[text_index] / len(sets[text_index]), text_index))
        chosen.append(next((texts[text_index][1] for text_index in ranked if _differs(sets[text_index], own)), ""))
    return chosen


def _by_model(
    corpus: Path, pictures: Sequence[IndexedPicture], texts: Sequence[tuple[int, str]], scorer: Scorer
) -> list[str]:
    """For each picture the text with the highest cosine that is similar to none of its own texts; "" if none is."""
    if not pictures:
        return []
    images_PD = np.concatenate([scorer.encode_images([picture_of(corpus, picture)]) for picture in pictures])
    texts_TD = scorer.encode_texts([text for _, text in texts])
    sets, chosen = [grams(bare(text)) for _, text in texts], []
    for picture, cosines_T in zip(pictures, images_PD @ texts_TD.T, strict=True):
        own = _own_grams(picture)
        ranked = np.argsort(-cosines_T, kind="stable")
        chosen.append(next((texts[text_index][1] for text_index in ranked if _differs(sets[text_index], own)), ""))
    return chosen


def _differs(text: set[str], own: Sequence[set[str]]) -> bool:
    return all(len(text & other) < ALIKE * len(text | other) for other in own)
