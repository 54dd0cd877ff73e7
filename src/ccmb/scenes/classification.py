"""Synthetic scenes as a classification data set: images of one thing each, with a folder for each class.

The scenes of a corpus hold two or three things. So no image of a single thing is ever trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_path, read_json, write_json
from ccmb.core.progress import progress
from ccmb.data.class_names import ImageClass
from ccmb.scenes.drawing import CENTRES, render_scene
from ccmb.scenes.scene import BACKGROUNDS, COLOURS, KINDS, Amount, Scene, Thing
from ccmb.scenes.texts import PLACES

Attribute = Literal["kind", "colour"]
AMOUNTS_OF_ONE: tuple[Amount, ...] = ("big", "small")
# Templates in the words of the corpus, which never mentions photographs; one for each place, so that no place counts.
SCENE_TEMPLATES = tuple(f"{words[0]}有{{}}。" for words in (PLACES[place] for place in CENTRES))


def scene_classes(attribute: Attribute) -> list[ImageClass]:
    """The kinds or the colours of synthetic scenes as classes, such as 帆船 or 红色."""
    return [ImageClass((name,)) for name in (KINDS if attribute == "kind" else [f"{colour}色" for colour in COLOURS])]


def write_class_folders(folder: Path, attribute: Attribute, per_class: int, size: int, seed: int = 0) -> None:
    """Render `per_class` images of `size` pixels of each kind or colour, into a folder with its name.

    In each class the values of the other attribute are equally frequent. The file classes.json beside the folders is
    for `ccmb evaluate --classes`. The images depend on the arguments alone; a folder that already holds them is left
    as it is.

    Raises:
        CcmbError: the folder holds something else.
    """
    settings: dict[str, object] = {"attribute": attribute, "per_class": per_class, "size": size, "seed": seed}
    if folder.exists():
        if not (folder / "drawn.json").is_file() or read_json(folder / "drawn.json") != settings:
            raise CcmbError(f"{folder}: this folder holds something else; remove it or choose another one")
        return
    classes = scene_classes(attribute)
    with progress("draw", per_class * len(classes), "images") as advance, atomic_path(folder) as temporary:
        for index, one in enumerate(classes):
            (temporary / one.name).mkdir(parents=True)
            for index_in_class, scene in enumerate(_scenes(attribute, index, per_class, seed)):
                rng = random.Random(f"{seed}/{one.name}/{index_in_class}")
                path = temporary / one.name / f"{index_in_class:04d}.jpg"
                render_scene(scene, size, rng).save(path, "JPEG", quality=92, subsampling=0)
                advance(1, "")
        write_json(temporary / "classes.json", [one.name for one in classes])
        write_json(temporary / "drawn.json", settings)


def _scenes(attribute: Attribute, index: int, count: int, seed: int) -> Iterator[Scene]:
    """Scenes of one thing of the class at `index`."""
    rng = random.Random(f"{seed}/{attribute}/{index}")
    others = list(COLOURS if attribute == "kind" else KINDS)
    rng.shuffle(others)
    for scene_index in range(count):
        other = others[scene_index % len(others)]
        kind, colour = (KINDS[index], other) if attribute == "kind" else (other, COLOURS[index])
        thing = Thing(kind, colour, rng.choice(AMOUNTS_OF_ONE), rng.choice(list(CENTRES)))
        yield Scene((thing,), rng.choice(BACKGROUNDS), rng.random() < 0.5)
