"""Whether painted pictures show the things that texts of the drawn world name.

Shapes: N pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ccmb.scenes.image_parser import see_things
from ccmb.scenes.scene import Thing
from ccmb.scenes.text_parser import SaidThing, read_things

# What is asked of a thing, by the name that its figure has.
ASKED: dict[str, tuple[str, ...]] = {
    "kind": ("kind",),
    "colour": ("colour",),
    "kind_and_colour": ("kind", "colour"),
    "amount": ("amount",),
    "place": ("place",),
    "everything": ("kind", "colour", "amount", "place"),
}


def things_painted(pictures: Sequence[Image.Image], texts: Sequence[str]) -> dict[str, np.ndarray] | None:
    """(N,) share of the things of each text that its picture has right, in [0, 1], by what of a thing is asked; or None
    where the texts are not of the drawn world.

    A thing more counts as one that is wrong: the share is of the things of the text or of the picture, whichever has
    more.
    """
    said = [read_things(text) for text in texts]
    if not said or not all(said):
        return None
    pairs = zip(pictures, said, strict=True)
    seen = [[of.thing for of in see_things(picture, _is_close_up(told))] for picture, told in pairs]
    return {
        figure: np.array([_share(shown, told, names) for shown, told in zip(seen, said, strict=True)])
        for figure, names in ASKED.items()
    }


def _is_close_up(said: Sequence[SaidThing]) -> bool | None:
    """None where no place is said."""
    places = {thing.place for thing in said if thing.place is not None}
    return "middle" in places if places else None


def _share(seen: Sequence[Thing], said: Sequence[SaidThing], names: Sequence[str]) -> float:
    """What a text does not say of any of its things is not asked."""
    told = [name for name in names if any(getattr(thing, name) is not None for thing in said)]
    shown, asked = (Counter(tuple(getattr(of, name) for name in told) for of in things) for things in (seen, said))
    return (shown & asked).total() / max(len(seen), len(said))
