"""What annotators are asked: does this text fit this picture, or write a caption; drawn from a finished corpus.

Positives have the surest clicks; negatives are texts of other pictures that nearly fit: those a given model takes for
likely, or those that share most characters with the picture's own texts. Gold questions are clear cases, hidden among
the others: a pair with sure clicks, and a text that shares nothing with the picture.
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
ALIKE = 0.6  # texts more alike than this may well mean the same


@dataclass(frozen=True, slots=True)
class Task:
    """One question.

    Attributes:
        id: names it in all rounds.
        key: of the picture in the corpus; `shard` and `sample` say where its file lies.
        text: to be judged; empty where a caption is to be written.
        drawn_as: 1 where it was drawn as fitting, 0 where not; None for captions.
        gold: whether `drawn_as` is taken for the truth, to judge annotators by.
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


def draw_tasks(
    corpus: Path, length: Length, pairs: int, captions: int = 0, gold: int = 0, seed: int = 0,
    scorer: Scorer | None = None,
) -> list[Task]:  # fmt: skip
    """Half of `pairs` drawn as fitting and half as not, `captions` pictures to describe, and `gold` questions, in an
    order that tells nothing. No picture has two questions of a kind.

    Raises:
        CcmbError: the corpus has too few pictures with such texts.
    """
    rng = random.Random(f"{seed}/{length}")
    pictures = [of for of in indexed_pictures(corpus) if any(pair["field"] in FIELDS[length] for pair in of.pairs)]
    if len(pictures) < pairs + gold:
        raise CcmbError(f"{corpus}: {len(pictures):,} pictures have a {length} text, {pairs + gold:,} are asked for")
    rng.shuffle(pictures)
    pictures.sort(key=lambda of: -_surest(of, length)[1])
    sure, rest = pictures[: gold - gold // 2], pictures[gold - gold // 2 :]
    apart, rest = rest[: gold // 2], rest[gold // 2 :]
    chosen = rng.sample(rest[:pairs], pairs)  # both halves from the same pictures, or these would tell the label
    fitting, unfit = chosen[: pairs - pairs // 2], chosen[pairs - pairs // 2 :]
    texts = [(number, _surest(of, length)[0]) for number, of in enumerate(pictures)]
    tasks = [_matching(of, length, _surest(of, length)[0], 1, True) for of in sure]
    tasks += [_matching(of, length, text, 0, True) for of, text in _nothing_shared(apart, texts, rng)]
    tasks += [_matching(of, length, _surest(of, length)[0], 1) for of in fitting]
    mined = _by_model(corpus, unfit, texts, scorer) if scorer else _by_shared(unfit, texts)
    tasks += [_matching(of, length, text, 0) for of, text in zip(unfit, mined, strict=True) if text]
    described = rng.sample(list(indexed_pictures(corpus)), captions) if captions else []
    tasks += [Task(f"c-{of.row['sample']}", "caption", "long", *_place(of)) for of in described]
    rng.shuffle(tasks)
    return tasks


def _surest(picture: IndexedPicture, length: Length) -> tuple[str, float]:
    """The text with the highest click bound (titles and captions have none), and the bound."""
    pairs = [pair for pair in picture.pairs if pair["field"] in FIELDS[length]]
    best = max(pairs, key=lambda pair: (pair["bound"] or 0.0, -len(pair["text"]), pair["text"]))
    return best["text"], best["bound"] or 0.0


def _matching(of: IndexedPicture, length: Length, text: str, drawn_as: int, gold: bool = False) -> Task:
    number, (key, shard, sample) = f"{length[0]}-{of.row['sample']}", _place(of)
    return Task(
        number, "matching", length, key=key, shard=shard, sample=sample, text=text, drawn_as=drawn_as, gold=gold
    )


def _place(of: IndexedPicture) -> tuple[str, str, str]:
    return of.row["key"], of.row["shard"], of.row["sample"]


def _own(of: IndexedPicture) -> list[set[str]]:
    return [grams(bare(pair["text"])) for pair in of.pairs]


def _nothing_shared(
    pictures: Sequence[IndexedPicture], texts: Sequence[tuple[int, str]], rng: random.Random
) -> list[tuple[IndexedPicture, str]]:
    """A text for each picture that shares no two characters with its own, where there is one."""
    found = []
    for of in pictures:
        own = set().union(*_own(of))
        for _, text in rng.sample(texts, len(texts)):
            if not own & grams(bare(text)):
                found.append((of, text))
                break
    return found


def _by_shared(pictures: Sequence[IndexedPicture], texts: Sequence[tuple[int, str]]) -> list[str]:
    """For each picture the text that shares most with its own and is not alike to any of them; "" where none is."""
    holding: dict[str, list[int]] = defaultdict(list)
    sets = [grams(bare(text)) for _, text in texts]
    for number, of_text in enumerate(sets):
        for gram in of_text:
            holding[gram].append(number)
    found = []
    for of in pictures:
        own = _own(of)
        shared = Counter(number for gram in set().union(*own) for number in holding.get(gram, ()))
        ranked = sorted(shared, key=lambda number: (-shared[number] / len(sets[number]), number))
        found.append(next((texts[number][1] for number in ranked if _differs(sets[number], own)), ""))
    return found


def _by_model(
    corpus: Path, pictures: Sequence[IndexedPicture], texts: Sequence[tuple[int, str]], scorer: Scorer
) -> list[str]:
    """For each picture the text of the highest cosine that is not alike to any of its own."""
    if not pictures:
        return []
    images_PD = np.concatenate([scorer.encode_images([picture_of(corpus, of)]) for of in pictures])
    texts_TD = scorer.encode_texts([text for _, text in texts])
    sets, found = [grams(bare(text)) for _, text in texts], []
    for of, cosines_T in zip(pictures, images_PD @ texts_TD.T, strict=True):
        own = _own(of)
        ranked = np.argsort(-cosines_T, kind="stable")
        found.append(next((texts[number][1] for number in ranked if _differs(sets[number], own)), ""))
    return found


def _differs(text: set[str], own: Sequence[set[str]]) -> bool:
    return all(len(text & other) < ALIKE * len(text | other) for other in own)
