"""The drawn world as a matching data set: labelled pairs over a drawn corpus.

Of each picture one pair is true and one is false. A hard false text is one of a twin, or of a minimal pair: the same
things in the same words, paired otherwise, so that only who reads the picture can tell. A random one is of any other
picture.
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
    """Write labelled pairs of all splits of a corpus that `draw_corpus` made; returns how many.

    Lines have image, text, label, split, group (the picture's own, so that a batch holds its pairs together) and
    "falsity": "hard" or "random" of false ones. The arguments alone decide what is written.

    Args:
        hard: share of the false texts that are hard, as far as there are such.

    Raises:
        CcmbError: the corpus is not there, or has only one picture in a split.
    """
    by_split: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, line in read_json_lines(corpus / "pairs.jsonl"):
        by_split[line["split"]].append(line)
    count = 0
    with atomic_write(path) as file:
        for split, lines in by_split.items():
            if len(lines) < 2:
                raise CcmbError(f"{corpus}: split '{split}' has one picture, so no text is false; draw more")
            twins: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for line in lines:
                twins[line["twin"]].append(line)
            for line in lines:
                rng = random.Random(f"{seed}/{line['image']}")
                about = {"image": line["image"], "split": split, "group": line["image"]}
                for pair in _true_and_false(line, lines, twins[line["twin"]], hard, rng):
                    file.write(json.dumps(about | pair, ensure_ascii=False) + "\n")
                    count += 1
    return count


def _true_and_false(
    line: dict[str, Any], lines: list[dict[str, Any]], twins: list[dict[str, Any]], hard: float, rng: random.Random
) -> tuple[dict[str, object], dict[str, object]]:
    """A true and a false pair of the picture of a line."""
    true = {"text": rng.choice(line["captions"]), "label": 1}
    others = [twin for twin in twins if twin["image"] != line["image"]]
    if rng.random() < hard:
        if minimal := line.get("minimal_pairs"):
            pair = rng.choice(minimal)
            return true | {"text": pair["text"]}, {"text": pair["false_text"], "label": 0, "falsity": "hard"}
        if others:
            return true, {"text": rng.choice(rng.choice(others)["captions"]), "label": 0, "falsity": "hard"}
    while (other := rng.choice(lines))["image"] == line["image"]:
        pass
    return true, {"text": rng.choice(other["captions"]), "label": 0, "falsity": "random"}
