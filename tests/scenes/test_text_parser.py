"""Texts of the drawn world read back: the truth comes out of every text that names it."""

from __future__ import annotations

import random

import pytest

from ccmb.scenes.scene import Scene, random_scene
from ccmb.scenes.text_parser import SaidThing, read_things, things_right
from ccmb.scenes.texts import CAPTIONS, caption, describe, detail


def truth(scene: Scene) -> set[SaidThing]:
    return {SaidThing(of.kind, of.colour, of.amount, of.place) for of in scene.things}


def test_every_caption_says_all_of_its_scene() -> None:
    rng = random.Random(0)
    for _ in range(300):
        scene = random_scene(rng)
        for family in range(CAPTIONS):
            text = caption(scene, family, rng)
            assert set(read_things(text)) == truth(scene), text
        for thing in scene.things:
            assert set(read_things(detail(thing, rng))) == {
                SaidThing(thing.kind, thing.colour, thing.amount, thing.place)
            }
        content = read_things(describe(scene, rng).content)
        assert set(content) == truth(scene)


def test_a_perfect_caption_has_everything_right() -> None:
    rng = random.Random(1)
    scenes = [random_scene(rng) for _ in range(20)]
    texts, others = ([caption(scene, family, rng) for scene in scenes] for family in (0, 2))
    found = things_right(texts, others)
    assert found is not None
    assert {name: value for name, value in found.items() if name != "things"} == dict.fromkeys(
        found.keys() - {"things"}, 100
    )
    assert found["things"] == sum(len(scene.things) for scene in scenes)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("左边有一艘红色的大帆船,右边有两把蓝色雨伞。", {"kind_and_colour": 100, "everything": 100}),
        ("左边有一艘蓝色的大帆船,右边有两把红色雨伞。", {"kind": 100, "colour": 100, "kind_and_colour": 0}),
        ("右边有一艘红色的大帆船,左边有三把蓝色雨伞。", {"kind_and_colour": 100, "with_place": 0, "with_amount": 50}),
        ("左边有一艘红色的大帆船。", {"kind": 50, "kind_and_colour": 50}),
        ("一艘红色的大帆船在左边,两把蓝色雨伞在右侧,一只黑色的小猫咪在下面。", {"kind_and_colour": 66.67}),
        ("夜里的草地上。", {"kind": 0, "everything": 0}),
    ],
)
def test_shares_of_right_things(said: str, expected: dict[str, float]) -> None:
    found = things_right([said], ["左边有一艘红色的大帆船,右边有两把蓝色雨伞。"])
    assert found is not None
    assert {name: found[name] for name in expected} == expected


def test_other_data_has_no_such_truth() -> None:
    assert things_right(["一只猫"], ["两只狗在草地上跑"]) is None
