"""Synthetic scenes as a matching data set: labelled pairs over a corpus of synthetic scenes.

Each image has a true pair and a false pair. A hard false text describes a swapped scene, or is from a minimal pair:
it has the same things in the same words, with two attributes swapped. So only a model that reads the image can find
the error. A random false text describes any other image.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write, read_json_lines


def write_labelled_scenes(corpus: Path, path: Path, hard: float = 0.5, seed: int = 0) -> int:
    """Write labelled pairs of all splits of a corpus that `write_scene_corpus` made; return how many.

    Lines have image, text, label, split and group. Each image is a group, so that a batch holds its pairs together.
    False pairs also have "falsity": "hard" or "random". The result depends on the arguments alone.

    Args:
        hard: share of the false texts that are hard, if the image has a hard text.

    Raises:
        CcmbError: the corpus does not exist, or a split has only one image.
    """
    by_split: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, line in read_json_lines(corpus / "pairs.jsonl"):
        by_split[line["split"]].append(line)
    count = 0
    with atomic_write(path) as file:
        for split, lines in by_split.items():
            if len(lines) < 2:
                raise CcmbError(f"{corpus}: split '{split}' has one image, so no text is false; draw more")
            swapped_lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for line in lines:
                swapped_lines[line["twin"]].append(line)
            for line in lines:
                rng = random.Random(f"{seed}/{line['image']}")
                about = {"image": line["image"], "split": split, "group": line["image"]}
                for pair in _true_and_false(line, lines, swapped_lines[line["twin"]], hard, rng):
                    file.write(json.dumps(about | pair, ensure_ascii=False) + "\n")
                    count += 1
    return count


def _true_and_false(
    line: dict[str, Any],
    lines: list[dict[str, Any]],
    swapped_lines: list[dict[str, Any]],
    hard: float,
    rng: random.Random,
) -> tuple[dict[str, object], dict[str, object]]:
    """A true pair and a false pair for the image of a line."""
    true = {"text": rng.choice(line["captions"]), "label": 1}
    others = [swapped_line for swapped_line in swapped_lines if swapped_line["image"] != line["image"]]
    if rng.random() < hard:
        if minimal := line.get("minimal_pairs"):
            pair = rng.choice(minimal)
            return true | {"text": pair["text"]}, {"text": pair["false_text"], "label": 0, "falsity": "hard"}
        if others:
            return true, {"text": rng.choice(rng.choice(others)["captions"]), "label": 0, "falsity": "hard"}
    while (other := rng.choice(lines))["image"] == line["image"]:
        pass
    return true, {"text": rng.choice(other["captions"]), "label": 0, "falsity": "random"}
