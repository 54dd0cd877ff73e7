"""The answers of annotators as data sets in the published form: ICM and ICR of long texts, IQM and IQR of queries.

out/{ICM,IQM}/{train,val,test}/{long,short}_itm_{split}.json    JSON lines: text, image_path, label
out/{ICR,IQR}/{train,val,test}/{long,short}_itr_{split}.json    JSON lines: text, image_path
out/images/                                                    the images of all four

The hash of its key puts an image into one split, the same in every set and round. The corpus has no near-duplicates.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ccmb.core.files import atomic_write
from ccmb.corpus.annotation.label_studio import IMAGES
from ccmb.corpus.annotation.tasks import AnnotationTask
from ccmb.corpus.annotation.votes import Votes

SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}
MATCHING, RETRIEVAL = {"long": "ICM", "short": "IQM"}, {"long": "ICR", "short": "IQR"}


def split_of(key: str) -> str:
    """The split of an image; it is the same in every round and every set."""
    position = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
    for split, share in SPLITS.items():
        if position < share:
            return split
        position -= share
    return "test"


def write_sets(tasks: Sequence[AnnotationTask], votes: Votes, exported: Path, out: Path) -> dict[str, int]:
    """Write the files, and return the number of lines by set and split."""
    lines: dict[Path, list[dict[str, object]]] = defaultdict(list)
    used: dict[str, None] = {}
    for task in sorted(tasks, key=lambda task: task.id):
        label, split = votes.labels.get(task.id), split_of(task.key)
        texts = votes.captions.get(task.id, []) if task.question == "caption" else [task.text]
        if label is None and task.id not in votes.captions:
            continue
        name = f"{task.sample}.jpg"
        used[name] = None
        for text in texts:
            line: dict[str, object] = {"text": text, "image_path": f"images/{name}"}
            if label is not None:
                stem = f"{task.length}_itm_{split}.json"
                lines[Path(MATCHING[task.length]) / split / stem].append({**line, "label": label})
            if label != 0:
                lines[Path(RETRIEVAL[task.length]) / split / f"{task.length}_itr_{split}.json"].append(line)
    for path, file_lines in lines.items():
        with atomic_write(out / path) as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in file_lines)
    (out / "images").mkdir(parents=True, exist_ok=True)
    for name in used:
        shutil.copyfile(exported / IMAGES / name, out / "images" / name)
    return {f"{path.parts[0]} {path.parts[1]}": len(file_lines) for path, file_lines in sorted(lines.items())}
