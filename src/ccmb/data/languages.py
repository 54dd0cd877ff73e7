"""Languages of texts: which fields of own pairs hold which language, and how often each is drawn from.

Languages are BCP 47 tags, such as `zh`, `en` or `zh-Hant`. Own pairs have them as fields, {"image": .., "zh": [..],
"en": [..]}, or beside each text or line, {"image": .., "texts": [..], "language": "en"}.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ccmb.core.errors import UsageError
from ccmb.data.sample import Sample

TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|\d{3}))?(-([A-Za-z\d]{5,8}|\d[A-Za-z\d]{3}))*")
AT = "@"  # in a field's name, before the language that its texts have to have

Languages = Mapping[str, Sequence[str]]  # text fields by language


def tag_of(text: str) -> str:
    """A language's tag as BCP 47 writes it: `zh-Hant-TW`.

    Raises:
        UsageError: it is no tag.
    """
    if not TAG.fullmatch(text):
        raise UsageError(f"{text!r} is no language tag; write one of BCP 47, such as zh, en or zh-Hant")
    first, *subtags = text.split("-")
    shaped = [part.title() if len(part) == 4 and part.isalpha() else part for part in subtags]
    return "-".join([first.lower(), *(part.upper() if len(part) == 2 else part for part in shaped)])


def fields_of_language(tag: str) -> tuple[str, ...]:
    """The fields that hold a language if nobody says which: one of its name, and `texts` that say so."""
    return tag, f"texts{AT}{tag}"


def parse_languages(text: str) -> dict[str, tuple[str, ...]]:
    """Read `zh=captions+mt_baidu,en`: languages with their fields.

    Raises:
        UsageError: a language is no tag, comes twice, or has an empty field.
    """
    languages: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        name, equals, fields = part.strip().partition("=")
        tag = tag_of(name.strip())
        named = tuple(field.strip() for field in fields.split("+")) if equals else fields_of_language(tag)
        if tag in languages or not all(named):
            what = "comes twice" if tag in languages else "has an empty field"
            raise UsageError(f"{text!r}: {tag} {what}; write such as zh=captions+mt_baidu,en")
        languages[tag] = named
    return languages


def all_fields(languages: Languages) -> list[str]:
    """The fields of all languages, in order."""
    return [field for fields in languages.values() for field in fields]


def by_language(samples: Sequence[Sample], languages: Languages) -> list[Sample]:
    """The samples, which hold texts of `all_fields`, with one field for each language."""
    ends, end = [], 0
    for fields in languages.values():
        ends.append((end, end + len(fields)))
        end += len(fields)
    return [
        replace(sample, fields=tuple(sum(sample.fields[start:stop], ()) for start, stop in ends)) for sample in samples
    ]


def language_weights(samples: Sequence[Sample], temperature: float) -> list[float]:
    """How often to draw from each language: its number of texts to the power of 1 / temperature, as a share.

    At temperature 1 each text is as likely. The higher it is, the more evenly languages are drawn (Devlin et al. 2019,
    multilingual BERT; Conneau et al. 2020, arXiv 1911.02116, with alpha = 1 / temperature).
    """
    counts = [sum(map(len, texts)) for texts in zip(*(sample.fields for sample in samples), strict=True)]
    powers = [count ** (1 / temperature) if count else 0.0 for count in counts]
    return [power / sum(powers) for power in powers]


def weighted_order(rng: random.Random, weights: Sequence[float]) -> list[int]:
    """The indices of positive weights, drawn without replacement by them (Efraimidis and Spirakis 2006)."""
    keys = {index: rng.random() ** (1 / weight) for index, weight in enumerate(weights) if weight > 0}
    return sorted(keys, key=lambda index: -keys[index])


@dataclass(frozen=True, slots=True)
class LanguagePlan:
    """Chooses the language of each row, so that a batch holds as many texts of each as it can.

    Attributes:
        count: of languages.
        seed: for their order, which is another one in each step.
    """

    count: int
    seed: int

    def __call__(self, step: int, row: int = 0, turn: int = 0) -> int:
        order = list(range(self.count))
        random.Random(f"{self.seed}/language/{step}").shuffle(order)
        return order[(row + turn) % self.count]
