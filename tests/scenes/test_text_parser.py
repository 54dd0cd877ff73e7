"""Texts of synthetic scenes read back: the truth comes out of every text that names it."""

from __future__ import annotations

import random

import pytest

from ccmb.scenes.scene import Scene, random_scene
from ccmb.scenes.text_parser import NamedThing, parse_text, things_right
from ccmb.scenes.texts import CAPTIONS, caption, describe, detail


def truth(scene: Scene) -> set[NamedThing]:
    return {NamedThing(thing.kind, thing.colour, thing.amount, thing.place) for thing in scene.things}


def test_every_caption_says_all_of_its_scene() -> None:
    rng = random.Random(0)
    for _ in range(300):
        scene = random_scene(rng)
        for family in range(CAPTIONS):
            text = caption(scene, family, rng)
            assert set(parse_text(text)) == truth(scene), text
        for thing in scene.things:
            assert set(parse_text(detail(thing, rng))) == {
                NamedThing(thing.kind, thing.colour, thing.amount, thing.place)
            }
        content = parse_text(describe(scene, rng).content)
        assert set(content) == truth(scene)


def test_a_perfect_caption_has_everything_right() -> None:
    rng = random.Random(1)
    scenes = [random_scene(rng) for _ in range(20)]
    texts, others = ([caption(scene, family, rng) for scene in scenes] for family in (0, 2))
    shares = things_right(texts, others)
    assert shares is not None
    assert {name: value for name, value in shares.items() if name != "things"} == dict.fromkeys(
        shares.keys() - {"things"}, 100
    )
    assert shares["things"] == sum(len(scene.things) for scene in scenes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("左边有一艘红色的大帆船,右边有两把蓝色雨伞。", {"kind_and_colour": 100, "everything": 100}),
        ("左边有一艘蓝色的大帆船,右边有两把红色雨伞。", {"kind": 100, "colour": 100, "kind_and_colour": 0}),
        ("右边有一艘红色的大帆船,左边有三把蓝色雨伞。", {"kind_and_colour": 100, "with_place": 0, "with_amount": 50}),
        ("左边有一艘红色的大帆船。", {"kind": 50, "kind_and_colour": 50}),
        ("一艘红色的大帆船在左边,两把蓝色雨伞在右侧,一只黑色的小猫咪在下面。", {"kind_and_colour": 66.67}),
        ("夜里的草地上。", {"kind": 0, "everything": 0}),
    ],
)
def test_shares_of_right_things(text: str, expected: dict[str, float]) -> None:
    shares = things_right([text], ["左边有一艘红色的大帆船,右边有两把蓝色雨伞。"])
    assert shares is not None
    assert {name: shares[name] for name in expected} == expected


def test_other_data_has_no_such_truth() -> None:
    assert things_right(["一只猫"], ["两只狗在草地上跑"]) is None
