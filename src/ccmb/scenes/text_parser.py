"""Which things a text about a synthetic scene names: the inverse of `ccmb.scenes.texts`.

A text that a model wrote is compared with a true text: a thing is right if the true text names the same attributes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ccmb.scenes.scene import AMOUNTS, COLOURS, KINDS, Amount, Place
from ccmb.scenes.texts import MEASURES, NUMBERS, PLACES, SIZES


@dataclass(frozen=True, slots=True)
class NamedThing:
    """A thing that a text names; `amount` and `place` are None if the text does not name them."""

    kind: str
    colour: str
    amount: Amount | None = None
    place: Place | None = None


def _one_of(words: Sequence[str]) -> str:
    return "|".join(sorted(dict.fromkeys(words), key=lambda word: (-len(word), word)))


PLACE_OF: dict[str, Place] = {word: place for place, words in PLACES.items() for word in words}
OPPOSITE: dict[Place, Place] = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
THING = re.compile(
    rf"(?P<number>{_one_of(list(NUMBERS.values()))})(?:{_one_of(list(MEASURES.values()))})"
    rf"(?P<colour>{_one_of(COLOURS)})色的?(?P<size>[{''.join(SIZES.values())}]?)(?P<kind>{_one_of(KINDS)})"
)
# Phrases that connect a thing and its place. The thing is written as its index in <>.
_PLACE = f"({_one_of(list(PLACE_OF))})"
BESIDE = (re.compile(rf"<(\d)>在<(\d)>的{_PLACE}"), re.compile(rf"<(\d)>的{_PLACE}有<(\d)>"))
BEFORE, AFTER = re.compile(rf"{_PLACE}(?:有|是|画着)<(\d)>"), re.compile(rf"<(\d)>(?:在|位于){_PLACE}")


def parse_text(text: str) -> list[NamedThing]:
    """The things that a text names in the words of synthetic scenes, in order; other words are ignored."""
    things = [
        NamedThing(match["kind"], match["colour"], _amount(match["number"], match["size"]))
        for match in THING.finditer(text)
    ]
    numbers = iter(range(len(things)))
    frame = THING.sub(lambda _: f"<{next(numbers)}>", text)
    for one, other, place in _besides(frame):
        things[one] = replace(things[one], place=place)
        things[other] = replace(things[other], place=OPPOSITE.get(place))
    for thing_index, word in [(n, w) for w, n in BEFORE.findall(frame)] + AFTER.findall(frame):
        if things[int(thing_index)].place is None:
            things[int(thing_index)] = replace(things[int(thing_index)], place=PLACE_OF[word])
    return things


def _besides(frame: str) -> list[tuple[int, int, Place]]:
    """Triples (one, other, place): thing `one` stands at the place relative to thing `other`."""
    first, second = BESIDE
    pairs = [(one, other, word) for one, other, word in first.findall(frame)]
    pairs += [(one, other, word) for other, word, one in second.findall(frame)]
    return [(int(one), int(other), PLACE_OF[word]) for one, other, word in pairs]


def _amount(numeral: str, size: str) -> Amount | None:
    return next((amount for amount in AMOUNTS if (NUMBERS[amount], SIZES[amount]) == (numeral, size)), None)


ASPECTS: dict[str, tuple[str, ...]] = {
    "kind": ("kind",),
    "colour": ("colour",),
    "kind_and_colour": ("kind", "colour"),
    "with_amount": ("kind", "colour", "amount"),
    "with_place": ("kind", "colour", "place"),
    "everything": ("kind", "colour", "amount", "place"),
}


def things_right(texts: Sequence[str], true_texts: Sequence[str]) -> dict[str, float] | None:
    """The share of things that texts name right, in percent, by attributes.

    An invented thing counts as wrong: the share is relative to the things of the scene or of the text, whichever has
    more. The result is None if the true texts are not about synthetic scenes.

    Args:
        true_texts: for each text, a true text that names every thing of its scene.
    """
    truths = [parse_text(text) for text in true_texts]
    if not truths or not all(truths):
        return None
    named = [parse_text(text) for text in texts]
    whole = sum(max(len(things), len(truth)) for things, truth in zip(named, truths, strict=True))
    shares: dict[str, float] = {"things": sum(map(len, truths))}
    for aspect, names in ASPECTS.items():
        right = sum(
            (_aspects(things, names) & _aspects(truth, names)).total()
            for things, truth in zip(named, truths, strict=True)
        )
        shares[aspect] = round(100 * right / whole, 2)
    return shares


def _aspects(things: Sequence[NamedThing], names: Sequence[str]) -> Counter[tuple[object, ...]]:
    return Counter(tuple(getattr(thing, name) for name in names) for thing in things)
