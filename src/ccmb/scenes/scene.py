"""Synthetic scenes: procedural images with Chinese texts whose truth is known.

They replace real photographs where these cannot be shipped: in the quickstart, the tests and the demos. Metrics on
synthetic scenes show that the code works and what each stage can learn. They tell nothing about real images.

A scene holds two or three things on a background by day or night. Each thing has a kind, a colour, an amount (one big,
one small, two or three) and a place. A text fits only if every attribute belongs to the right thing.

Scenes come in groups, which a batch holds together. A group has a scene, its neighbours and swapped scenes. Neighbours
share the background and the places, and nothing else. Without them the background and the places would distinguish
almost all scenes of a batch, and a model would hardly learn colours and kinds. In a swapped scene, also called a twin,
two things have exchanged one attribute. Without swapped scenes a model would not learn which colour belongs to which
thing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

Amount = Literal["big", "small", "two", "three"]
Place = Literal["left", "right", "top", "bottom", "top_left", "top_right", "middle"]
Swap = Literal["colour", "place", "amount"]
Split = Literal["train", "val", "test"]

KINDS = (
    "帆船", "汽车", "房子", "松树", "花朵", "鲤鱼", "鸽子", "猫咪", "皮球", "星星", "气球", "雨伞", "茶杯",
    "椅子", "旗子", "蘑菇", "帽子", "钥匙", "台灯", "书本", "闹钟", "苹果", "火箭", "飞机", "蝴蝶", "爱心",
)  # fmt: skip
COLOURS = ("红", "橙", "黄", "绿", "蓝", "紫", "白", "黑")
BACKGROUNDS = ("草地", "沙滩", "雪地", "沙漠", "街道", "山谷")
AMOUNTS: tuple[Amount, ...] = get_args(Amount)
SWAPS: tuple[Swap, ...] = get_args(Swap)
# The places of the things of a scene, in the order in which a text names them. The middle is for close-ups.
LAYOUTS: tuple[tuple[Place, ...], ...] = (("left", "right"), ("top", "bottom"), ("top_left", "top_right", "bottom"))
LAYOUT_WEIGHTS = (0.45, 0.3, 0.25)
# Shares of the compositions; each composition is in one split only.
SPLIT_SHARES: dict[Split, float] = {"train": 0.8, "val": 0.05, "test": 0.15}


@dataclass(frozen=True, slots=True)
class Thing:
    """One or several equal drawn things in one place."""

    kind: str
    colour: str
    amount: Amount
    place: Place


@dataclass(frozen=True, slots=True)
class Scene:
    """What an image shows. Equal scenes look the same except for jitter."""

    things: tuple[Thing, ...]
    background: str
    night: bool

    @property
    def composition(self) -> str:
        """The kinds and the colours, however they are paired; swapped scenes have the same composition."""
        kinds = sorted(thing.kind for thing in self.things)
        colours = sorted(thing.colour for thing in self.things)
        return "/".join(kinds + colours)

    @property
    def split(self) -> Split:
        """The split of the composition.

        So a scene and its swapped scenes stay together, and no pairing of a held-out composition is ever trained on.
        """
        digest = hashlib.blake2b(self.composition.encode(), digest_size=4).digest()
        position, end = int.from_bytes(digest, "big") / 2**32, 0.0
        for split, share in SPLIT_SHARES.items():
            end += share
            if position < end:
                return split
        return "test"


def random_scene(rng: random.Random) -> Scene:
    """A scene of two or three things, all of different kinds and colours."""
    places = rng.choices(LAYOUTS, LAYOUT_WEIGHTS)[0]
    return Scene(_random_things(places, rng), rng.choice(BACKGROUNDS), rng.random() < 0.5)


def with_other_things(scene: Scene, rng: random.Random) -> Scene:
    """Other things in the same places, on the same background at the same time of day."""
    return replace(scene, things=_random_things([thing.place for thing in scene.things], rng))


def _random_things(places: Sequence[Place], rng: random.Random) -> tuple[Thing, ...]:
    kinds, colours = rng.sample(KINDS, len(places)), rng.sample(COLOURS, len(places))
    return tuple(
        Thing(kind, colour, rng.choice(AMOUNTS), place)
        for kind, colour, place in zip(kinds, colours, places, strict=True)
    )


def swapped(scene: Scene, swap: Swap, first: int = 0, second: int = 1) -> Scene | None:
    """The scene with one attribute of two things exchanged; None if that does not change the scene."""
    things = list(scene.things)
    one, other = things[first], things[second]
    things[first], things[second] = (
        replace(one, **{swap: getattr(other, swap)}),
        replace(other, **{swap: getattr(one, swap)}),
    )
    if swap == "place":
        # A text names things in the order of their places; so does the scene.
        things[first], things[second] = things[second], things[first]
    return None if tuple(things) == scene.things else replace(scene, things=tuple(things))


def random_swap(scene: Scene, rng: random.Random) -> tuple[Swap, Scene]:
    """One of the swaps that change the scene, between two things chosen at random."""
    first, second = sorted(rng.sample(range(len(scene.things)), 2))
    for swap in rng.sample(SWAPS, len(SWAPS)):
        if swapped_scene := swapped(scene, swap, first, second):
            return swap, swapped_scene
    raise AssertionError("things of a scene differ in place, so one swap always changes it")


def scene_groups(split: Split, seed: int, swapped_share: float, neighbours: int = 0) -> Iterator[tuple[Scene, ...]]:
    """An endless run of groups of similar scenes of one split, without repeated scenes.

    Args:
        swapped_share: share of the scenes that get a swapped scene beside them.
        neighbours: how many more scenes a group has, with other things in the same places on the same background.
    """
    rng = random.Random(f"{seed}/{split}")
    seen: set[Scene] = set()

    def another(make: Callable[..., Scene], *sources: Scene) -> Scene:
        """A new scene of the split, made from scratch or from another scene."""
        while (scene := make(*sources, rng)).split != split or scene in seen:
            pass
        seen.add(scene)
        return scene

    while True:
        first = another(random_scene)
        group = [first]
        group += [another(with_other_things, first) for _ in range(neighbours)]
        for scene in tuple(group):
            if rng.random() < swapped_share and (swapped_scene := random_swap(scene, rng)[1]) not in seen:
                seen.add(swapped_scene)
                group.append(swapped_scene)
        yield tuple(group)
