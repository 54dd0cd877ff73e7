"""Close-ups of one thing each with their texts, in the form of custom pairs, for training a small generator.

The scenes of a corpus hold two or three things, each on a sixth of the image. So the things cause only a small part
of a generator's loss, and it hardly learns what the text says about them. In a close-up the thing fills the image. As
in a corpus, a combination of kind and colour is in one split only.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from ccmb.scenes.corpus import write_scenes
from ccmb.scenes.scene import BACKGROUNDS, COLOURS, KINDS, Amount, Scene, Split, Thing
from ccmb.scenes.texts import CAPTIONS, caption, detail, short_query

# Mostly big ones: a generator learns the shapes of the kinds fastest from these.
AMOUNT_WEIGHTS: dict[Amount, float] = {"big": 0.75, "small": 0.25}


def write_close_ups(folder: Path, counts: dict[Split, int], size: int, seed: int = 0) -> None:
    """Render the images of each split, of `size` pixels.

    Each line of `pairs.jsonl` has image, split, query, details and captions. The images depend on the arguments
    alone; a folder that already holds them is left as it is.

    Raises:
        CcmbError: the folder holds something else.
    """
    wanted: dict[str, object] = {"close_ups": 1, "size": size, "seed": seed, "counts": counts}
    scenes = {split: itertools.islice(_scenes(split, seed), count) for split, count in counts.items()}
    write_scenes(folder, wanted, scenes=scenes, counts=counts, size=size, seed=seed, texts=_texts)


def _scenes(split: Split, seed: int) -> Iterator[tuple[Scene, dict[str, object]]]:
    """Scenes of one thing. Equal scenes are rendered with slightly different sizes and positions."""
    rng = random.Random(f"{seed}/things/{split}")
    while True:
        [amount] = rng.choices(list(AMOUNT_WEIGHTS), list(AMOUNT_WEIGHTS.values()))
        thing = Thing(rng.choice(KINDS), rng.choice(COLOURS), amount, "middle")
        scene = Scene((thing,), rng.choice(BACKGROUNDS), rng.random() < 0.5)
        if scene.split == split:
            yield scene, {}


def _texts(scene: Scene, rng: random.Random) -> dict[str, object]:
    [thing] = scene.things
    return {
        "query": short_query(scene, thing, rng),
        "details": [detail(thing, rng)],
        "captions": [caption(scene, family, rng) for family in rng.sample(range(CAPTIONS), 2)],
    }
