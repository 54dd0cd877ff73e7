"""The drawn world: procedural pictures with Chinese texts whose truth is known.

It stands in for real photographs wherever those cannot be shipped: the quickstart, the tests, the demos. Figures on it
say that the code works and what each stage can learn; they say nothing of real pictures.

A scene holds two or three things on a background by day or night. Each thing has a kind, a colour, an amount (one big,
one small, two or three) and a place, so that a text fits only if every attribute belongs to the right thing. Scenes
come in groups that a batch holds together: with neighbours that share the background and the places alone, and with
twins that differ in one swap of two attributes. Without neighbours the background and the places tell almost all
scenes of a batch apart, and colours and kinds are hardly learned; without twins nothing asks which colour is whose.
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
# Where the things of a scene stand, in the order in which a text that starts with the first names them. None stands in
# the middle, where a close-up has its one.
LAYOUTS: tuple[tuple[Place, ...], ...] = (("left", "right"), ("top", "bottom"), ("top_left", "top_right", "bottom"))
LAYOUT_WEIGHTS = (0.45, 0.3, 0.25)
# Shares of the compositions; what is in one split is in no other.
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
    """What a picture shows. Scenes of equal value look alike but for jitter."""

    things: tuple[Thing, ...]
    background: str
    night: bool

    @property
    def composition(self) -> str:
        """Its kinds and its colours, however they are paired: that of its twins too."""
        kinds = sorted(thing.kind for thing in self.things)
        colours = sorted(thing.colour for thing in self.things)
        return "/".join(kinds + colours)

    @property
    def split(self) -> Split:
        """The split the composition belongs to, so that twins stay together and no pairing of the held-out ones is
        ever trained on."""
        digest = hashlib.blake2b(self.composition.encode(), digest_size=4).digest()
        place, end = int.from_bytes(digest, "big") / 2**32, 0.0
        for split, share in SPLIT_SHARES.items():
            end += share
            if place < end:
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
    """The scene with one attribute of two of its things exchanged, or None if that leaves it as it is."""
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
        if twin := swapped(scene, swap, first, second):
            return swap, twin
    raise AssertionError("things of a scene differ in place, so one swap always changes it")


def scene_groups(split: Split, seed: int, twins: float, neighbours: int = 0) -> Iterator[tuple[Scene, ...]]:
    """An endless run of groups of like scenes of one split, in which no scene comes twice.

    Args:
        twins: share of the scenes beside which a twin of theirs stands.
        neighbours: how many more scenes a group holds, with other things in the same places on the same background.
    """
    rng = random.Random(f"{seed}/{split}")
    seen: set[Scene] = set()

    def another(make: Callable[..., Scene], *of: Scene) -> Scene:
        """A new scene of the split, made of nothing or of another scene."""
        while (scene := make(*of, rng)).split != split or scene in seen:
            pass
        seen.add(scene)
        return scene

    while True:
        first = another(random_scene)
        group = [first]
        group += [another(with_other_things, first) for _ in range(neighbours)]
        for scene in tuple(group):
            if rng.random() < twins and (twin := random_swap(scene, rng)[1]) not in seen:
                seen.add(twin)
                group.append(twin)
        yield tuple(group)
