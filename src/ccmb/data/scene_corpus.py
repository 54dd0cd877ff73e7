"""Writing the drawn world to disk in the form of own pairs: `pairs.jsonl` beside `images.tar`."""

from __future__ import annotations

import io
import itertools
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ccmb.data.scene_drawing import draw_scene
from ccmb.data.scene_texts import CAPTIONS, SceneTexts, caption, describe
from ccmb.data.scenes import Scene, Split, random_swap, scene_groups
from ccmb.errors import CcmbError
from ccmb.files import atomic_write, read_json, write_json
from ccmb.progress import progress

# A training group is a scene, a neighbour of other things, one of other kinds, and a twin of each of the three; of the
# held-out scenes two in five have a twin. (share with a twin, neighbours, those of other kinds)
TRAINING_GROUP = (1.0, 1, 1)
HELD_OUT_GROUP = (0.25, 0, 0)
WORLD = 2  # counted up when equal arguments come to draw another corpus


def draw_corpus(folder: Path, train: int, gallery: int, validation: int, size: int, seed: int = 0) -> None:
    """Draw `train` training pictures, `gallery` test pictures and `validation` pictures of `size` pixels.

    Each line of `pairs.jsonl` has image, split, group, twin, query, title, content, captions, details, and, outside the
    training split, minimal_pairs: a true text, a false one in the same words after one swap, and what was swapped.
    Drawing is decided by `seed` alone; a folder that already holds this corpus is left as it is.

    Raises:
        CcmbError: the folder holds another corpus.
    """
    wanted: dict[str, object] = {
        "world": WORLD,
        "train": train,
        "gallery": gallery,
        "validation": validation,
        "size": size,
        "seed": seed,
    }
    about = folder / "corpus.json"
    if about.exists():
        if read_json(about) != wanted:
            raise CcmbError(f"{folder}: this folder holds another corpus; remove it or choose another one")
        return
    counts: dict[Split, int] = {"train": train, "val": validation, "test": gallery}
    with (
        progress("draw", sum(counts.values()), "pictures") as advance,
        atomic_write(folder / "images.tar", "wb") as tar_file,
        atomic_write(folder / "pairs.jsonl") as pairs_file,
        tarfile.open(fileobj=tar_file, mode="w") as tar,
    ):
        for split, count in counts.items():
            for number, (scene, group) in enumerate(_numbered_scenes(split, count, seed)):
                name = f"{split}-{number:06d}.jpg"
                rng = random.Random(f"{seed}/{name}")
                _add_picture(tar, name, scene, size, rng)
                twin = f"{group}/{scene.composition}"
                line = {"image": name, "split": split, "group": group, "twin": twin, **_texts(describe(scene, rng))}
                if split != "train":
                    line["minimal_pairs"] = [_minimal_pair(scene, rng)]
                pairs_file.write(json.dumps(line, ensure_ascii=False) + "\n")
                advance(1, "")
    write_json(about, wanted)


def _numbered_scenes(split: Split, count: int, seed: int) -> Iterator[tuple[Scene, str]]:
    groups = enumerate(scene_groups(split, seed, *(TRAINING_GROUP if split == "train" else HELD_OUT_GROUP)))
    every = ((scene, f"{split}-{number}") for number, group in groups for scene in group)
    return itertools.islice(every, count)


def _add_picture(tar: tarfile.TarFile, name: str, scene: Scene, size: int, rng: random.Random) -> None:
    buffer = io.BytesIO()
    draw_scene(scene, size, rng).save(buffer, "JPEG", quality=92, subsampling=0)
    member = tarfile.TarInfo(name)
    member.size = buffer.tell()
    buffer.seek(0)
    tar.addfile(member, buffer)


def _texts(texts: SceneTexts) -> dict[str, object]:
    return {
        "query": texts.query,
        "title": texts.title,
        "content": texts.content,
        "captions": list(texts.captions),
        "details": list(texts.details),
    }


def _minimal_pair(scene: Scene, rng: random.Random) -> dict[str, str]:
    swap, twin = random_swap(scene, rng)
    family, words = rng.randrange(CAPTIONS), rng.random()
    text, false_text = (caption(which, family, random.Random(words)) for which in (scene, twin))
    return {"text": text, "false_text": false_text, "swap": swap}
