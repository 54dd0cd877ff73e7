"""Pictures of one thing each with their texts, in the form of own pairs: what a small generator learns to paint.

The scenes of a corpus hold two or three things. Here too the combinations of kind and colour of one split are in no
other.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from ccmb.data.scene_corpus import write_scenes
from ccmb.data.scene_drawing import CENTRES
from ccmb.data.scene_texts import CAPTIONS, caption, detail, short_query
from ccmb.data.scenes import AMOUNTS, BACKGROUNDS, COLOURS, KINDS, Scene, Split, Thing

# Mostly big ones: from these it is learned soonest what the kinds look like.
AMOUNT_WEIGHTS = (0.55, 0.25, 0.1, 0.1)


def draw_things(folder: Path, counts: dict[Split, int], size: int, seed: int = 0) -> None:
    """Draw so many pictures of each split, of `size` pixels.

    Each line of `pairs.jsonl` has image, split, query, details and captions. Drawing is decided by the arguments alone;
    a folder that already holds these pictures is left as it is.

    Raises:
        CcmbError: the folder holds something else.
    """
    wanted: dict[str, object] = {"things": 1, "size": size, "seed": seed, "counts": counts}
    scenes = {split: itertools.islice(_scenes(split, seed), count) for split, count in counts.items()}
    write_scenes(folder, wanted, scenes, counts, size, seed, _texts)


def _scenes(split: Split, seed: int) -> Iterator[tuple[Scene, dict[str, object]]]:
    """Different scenes of one thing, with nothing further to be said of them."""
    rng, seen = random.Random(f"{seed}/things/{split}"), set[Scene]()
    while True:
        [amount] = rng.choices(AMOUNTS, AMOUNT_WEIGHTS)
        thing = Thing(rng.choice(KINDS), rng.choice(COLOURS), amount, rng.choice(list(CENTRES)))
        scene = Scene((thing,), rng.choice(BACKGROUNDS), rng.random() < 0.5)
        if scene.split == split and scene not in seen:
            seen.add(scene)
            yield scene, {}


def _texts(scene: Scene, rng: random.Random) -> dict[str, object]:
    [thing] = scene.things
    return {
        "query": short_query(scene, thing, rng),
        "details": [detail(thing, rng)],
        "captions": [caption(scene, family, rng) for family in rng.sample(range(CAPTIONS), 2)],
    }
