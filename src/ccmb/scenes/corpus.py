"""Writing synthetic scenes to disk in the form of custom pairs: `pairs.jsonl` beside `images.tar`."""

from __future__ import annotations

import io
import itertools
import json
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write, read_json, write_json
from ccmb.core.progress import progress
from ccmb.scenes.drawing import render_scene
from ccmb.scenes.scene import Scene, Split, random_swap, scene_groups
from ccmb.scenes.texts import CAPTIONS, caption, describe

# (share of scenes with a swapped scene beside them, neighbours): a training group has a scene, two neighbours, and a
# swapped scene of each of the three. Of the held-out scenes, two in five are such a scene or have one.
TRAINING_GROUP = (1.0, 2)
HELD_OUT_GROUP = (0.25, 0)


def write_scene_corpus(folder: Path, train: int, gallery: int, validation: int, size: int, seed: int = 0) -> None:
    """Render `train` training images, `gallery` test images and `validation` images of `size` pixels.

    Each line of `pairs.jsonl` has image, split, group, twin, query, title, content, captions and details. Outside the
    training split it also has minimal_pairs: a true text, a false text in the same words with two attributes swapped,
    and the name of the attribute. The corpus depends on the arguments alone; a folder that already holds it is left as
    it is.

    Raises:
        CcmbError: the folder holds another corpus.
    """
    wanted: dict[str, object] = {
        "train": train,
        "gallery": gallery,
        "validation": validation,
        "size": size,
        "seed": seed,
    }
    counts: dict[Split, int] = {"train": train, "val": validation, "test": gallery}
    scenes = {split: _numbered_scenes(split, count, seed) for split, count in counts.items()}
    write_scenes(folder, wanted, scenes=scenes, counts=counts, size=size, seed=seed, texts=_texts)


def write_scenes(
    folder: Path,
    wanted: dict[str, object],
    scenes: Mapping[Split, Iterable[tuple[Scene, Mapping[str, object]]]],
    counts: dict[Split, int],
    size: int,
    seed: int,
    texts: Callable[[Scene, random.Random], dict[str, object]],
) -> None:
    """Write scenes as images and lines; a folder that already holds them is left as it is.

    Args:
        wanted: all settings that the result depends on.
        scenes: the scenes of each split, each with the fields of its line before the texts.
        counts: the number of scenes of each split.
        texts: makes the texts of a scene.

    Raises:
        CcmbError: the folder holds something else.
    """
    about = folder / "corpus.json"
    if about.exists():
        if read_json(about) != wanted:
            raise CcmbError(f"{folder}: this folder holds another corpus; remove it or choose another one")
        return
    with (
        progress("draw", sum(counts.values()), "images") as advance,
        atomic_write(folder / "images.tar", "wb") as tar_file,
        atomic_write(folder / "pairs.jsonl") as pairs_file,
        tarfile.open(fileobj=tar_file, mode="w") as tar,
    ):
        for split, split_scenes in scenes.items():
            for index, (scene, line_start) in enumerate(split_scenes):
                name = f"{split}-{index:06d}.jpg"
                rng = random.Random(f"{seed}/{name}")
                _add_image(tar, name, scene, size, rng)
                line = {"image": name, "split": split, **line_start, **texts(scene, rng)}
                pairs_file.write(json.dumps(line, ensure_ascii=False) + "\n")
                advance(1, "")
    write_json(about, wanted)


def _numbered_scenes(split: Split, count: int, seed: int) -> Iterator[tuple[Scene, dict[str, str]]]:
    groups = enumerate(scene_groups(split, seed, *(TRAINING_GROUP if split == "train" else HELD_OUT_GROUP)))
    numbered = (
        (scene, {"group": f"{split}-{group_index}", "twin": f"{split}-{group_index}/{scene.composition}"})
        for group_index, group in groups
        for scene in group
    )
    return itertools.islice(numbered, count)


def _add_image(tar: tarfile.TarFile, name: str, scene: Scene, size: int, rng: random.Random) -> None:
    buffer = io.BytesIO()
    render_scene(scene, size, rng).save(buffer, "JPEG", quality=92, subsampling=0)
    member = tarfile.TarInfo(name)
    member.size = buffer.tell()
    buffer.seek(0)
    tar.addfile(member, buffer)


def _texts(scene: Scene, rng: random.Random) -> dict[str, object]:
    texts = describe(scene, rng)
    fields: dict[str, object] = {
        "query": texts.query,
        "title": texts.title,
        "content": texts.content,
        "captions": list(texts.captions),
        "details": list(texts.details),
    }
    return fields if scene.split == "train" else fields | {"minimal_pairs": [_minimal_pair(scene, rng)]}


def _minimal_pair(scene: Scene, rng: random.Random) -> dict[str, str]:
    swap, swapped_scene = random_swap(scene, rng)
    family, words = rng.randrange(CAPTIONS), rng.random()
    text, false_text = (caption(which, family, random.Random(words)) for which in (scene, swapped_scene))
    return {"text": text, "false_text": false_text, "swap": swap}
