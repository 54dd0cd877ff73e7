"""Whether generated images show the things that texts about synthetic scenes name.

Shapes: N images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ccmb.scenes.image_parser import parse_image
from ccmb.scenes.scene import Thing
from ccmb.scenes.text_parser import NamedThing, parse_text

# The attributes of a thing that must be right, by the name of the metric.
ASKED: dict[str, tuple[str, ...]] = {
    "kind": ("kind",),
    "colour": ("colour",),
    "kind_and_colour": ("kind", "colour"),
    "amount": ("amount",),
    "place": ("place",),
    "everything": ("kind", "colour", "amount", "place"),
}


def things_generated(images: Sequence[Image.Image], texts: Sequence[str]) -> dict[str, np.ndarray] | None:
    """(N,) shares in [0, 1] of the things of each text that its image shows right, by attributes.

    An extra thing in the image counts as wrong: the share is relative to the things of the text or of the image,
    whichever has more. The result is None if the texts are not about synthetic scenes.
    """
    named = [parse_text(text) for text in texts]
    if not named or not all(named):
        return None
    pairs = zip(images, named, strict=True)
    seen = [
        [seen_thing.thing for seen_thing in parse_image(image, _is_close_up(named_things))]
        for image, named_things in pairs
    ]
    return {
        metric: np.array([_share(shown, named_things, names) for shown, named_things in zip(seen, named, strict=True)])
        for metric, names in ASKED.items()
    }


def _is_close_up(named: Sequence[NamedThing]) -> bool | None:
    """Whether a text describes a close-up; None if it names no place."""
    places = {thing.place for thing in named if thing.place is not None}
    return "middle" in places if places else None


def _share(seen: Sequence[Thing], named: Sequence[NamedThing], names: Sequence[str]) -> float:
    """The share of right things. An attribute that the text names for none of its things does not count."""
    attributes = [name for name in names if any(getattr(thing, name) is not None for thing in named)]
    shown, required = (
        Counter(tuple(getattr(thing_of, name) for name in attributes) for thing_of in things)
        for things in (seen, named)
    )
    return (shown & required).total() / max(len(seen), len(named))
