"""Which things a text about a drawn scene names: what `ccmb.scenes.texts` says, read back.

Shares are of the truth: a text that a network wrote is right about a thing if it names one of the same kind and colour.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ccmb.scenes.scene import AMOUNTS, COLOURS, KINDS, Amount, Place
from ccmb.scenes.texts import MEASURES, NUMBERS, PLACES, SIZES


@dataclass(frozen=True, slots=True)
class SaidThing:
    """A thing as a text names it; `amount` and `place` are None where it does not say them."""

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
# What stands between a thing, written as its number in <>, and its place.
_PLACE = f"({_one_of(list(PLACE_OF))})"
BESIDE = (re.compile(rf"<(\d)>在<(\d)>的{_PLACE}"), re.compile(rf"<(\d)>的{_PLACE}有<(\d)>"))
BEFORE, AFTER = re.compile(rf"{_PLACE}(?:有|是|画着)<(\d)>"), re.compile(rf"<(\d)>(?:在|位于){_PLACE}")


def read_things(text: str) -> list[SaidThing]:
    """The things that a text names in the words of the drawn world, in their order; all else is passed over."""
    things = [
        SaidThing(found["kind"], found["colour"], _amount(found["number"], found["size"]))
        for found in THING.finditer(text)
    ]
    numbers = iter(range(len(things)))
    frame = THING.sub(lambda _: f"<{next(numbers)}>", text)
    for one, other, place in _besides(frame):
        things[one] = replace(things[one], place=place)
        things[other] = replace(things[other], place=OPPOSITE.get(place))
    for number, word in [(n, w) for w, n in BEFORE.findall(frame)] + AFTER.findall(frame):
        if things[int(number)].place is None:
            things[int(number)] = replace(things[int(number)], place=PLACE_OF[word])
    return things


def _besides(frame: str) -> list[tuple[int, int, Place]]:
    """Pairs of things of which the first is on this side of the second."""
    first, second = BESIDE
    found = [(one, other, word) for one, other, word in first.findall(frame)]
    found += [(one, other, word) for other, word, one in second.findall(frame)]
    return [(int(one), int(other), PLACE_OF[word]) for one, other, word in found]


def _amount(number: str, size: str) -> Amount | None:
    return next((amount for amount in AMOUNTS if (NUMBERS[amount], SIZES[amount]) == (number, size)), None)


ASPECTS: dict[str, tuple[str, ...]] = {
    "kind": ("kind",),
    "colour": ("colour",),
    "kind_and_colour": ("kind", "colour"),
    "with_amount": ("kind", "colour", "amount"),
    "with_place": ("kind", "colour", "place"),
    "everything": ("kind", "colour", "amount", "place"),
}


def things_right(texts: Sequence[str], true_texts: Sequence[str]) -> dict[str, float] | None:
    """Share of the things that texts have right, in percent, by what of a thing is asked; or None where the true texts
    are not of the drawn world.

    A thing that is not there counts as one that is wrong: the share is of the things of the scene or of the text,
    whichever has more.

    Args:
        true_texts: one for each text, which names every thing of its scene.
    """
    truths = [read_things(text) for text in true_texts]
    if not truths or not all(truths):
        return None
    said = [read_things(text) for text in texts]
    whole = sum(max(len(of), len(truth)) for of, truth in zip(said, truths, strict=True))
    found: dict[str, float] = {"things": sum(map(len, truths))}
    for aspect, names in ASPECTS.items():
        right = sum(
            (_aspects(of, names) & _aspects(truth, names)).total() for of, truth in zip(said, truths, strict=True)
        )
        found[aspect] = round(100 * right / whole, 2)
    return found


def _aspects(things: Sequence[SaidThing], names: Sequence[str]) -> Counter[tuple[object, ...]]:
    return Counter(tuple(getattr(thing, name) for name in names) for thing in things)
