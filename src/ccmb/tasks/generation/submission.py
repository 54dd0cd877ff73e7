"""The file that a test split of ECommerce-T2I is handed in as: `T2I_test.tsv`, an id and an image in base64 a line.

A stopped run goes on: the lines so far lie beside the file, under what they were painted with.
"""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_write
from ccmb.core.logs import BARE
from ccmb.core.progress import progress
from ccmb.datasets.registry import open_dataset
from ccmb.inference.models.base import fingerprint
from ccmb.inference.pipeline import Pipeline
from ccmb.r2d2.generative.generator import R2D2Generator
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.common.datasets import name_and_path
from ccmb.tasks.generation.predict import SamplingOptions, paint_texts

HANDED_IN = ("ecommerce-t2i",)
_LOG = logging.getLogger(__name__)
BATCH = 32  # texts that are painted between two looks at the file
PARTIAL = ".partial"

# Images of texts, of which the first has the place of a number among all.
Paint = Callable[[Sequence[str], int], list[Image.Image]]


def hand_in(
    model: R2D2Generator,
    processor: R2D2Processor,
    data: str,
    *,
    split: str,
    out: Path,
    sampling: SamplingOptions,
    judge: Pipeline,
) -> dict[str, Any]:
    """Paint the texts of a published set and write its file; the best of several candidates counts.

    Raises:
        UsageError, CcmbError: the set is none of text-to-image, or see `open_dataset` and `write_submission`.
    """
    name, folder = name_and_path(data, "--data")
    if name.lower() not in HANDED_IN:
        raise UsageError(f"--data {name}: is not handed in as images; there is {', '.join(HANDED_IN)}")
    dataset = open_dataset(name, folder, split)
    texts = {query.id: within_length(processor, query.text) for query in dataset.queries}
    cut = sum(texts[query.id] != query.text for query in dataset.queries)
    if cut:
        _LOG.warning("%d of %d texts are longer than the model reads: cut at the end", cut, len(texts), extra=BARE)

    def paint(part: Sequence[str], place: int) -> list[Image.Image]:
        results = paint_texts(model, processor, part, sampling, judge if sampling.best_of > 1 else None, place=place)
        return [result.candidates[0].image for result in results]

    weights = fingerprint(model, {"judge": judge.name if sampling.best_of > 1 else None})
    write_submission(out, texts, paint, {"model": weights, **asdict(sampling)})
    return {"submission": str(out), "texts": len(texts), "cut": cut, "painting": asdict(sampling)}


def write_submission(path: Path, texts: Mapping[str, str], paint: Paint, settings: Mapping[str, Any]) -> None:
    """Paint all texts of a split and write the file.

    Args:
        texts: by the ids of the split.
        settings: what the images depend on; other ones begin anew.

    Raises:
        CcmbError: the disk is full or not writable.
    """
    partial = path.with_name(path.name + PARTIAL)
    head = json.dumps({**settings, "ids": len(texts)}, ensure_ascii=False, sort_keys=True) + "\n"
    ids = list(texts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        done = _lines_kept(partial, head, ids)
        with open(partial, "a", encoding="utf-8") as file, progress("paint", len(ids), "texts", done) as advance:
            for start in range(done, len(ids), BATCH):
                chunk = ids[start : start + BATCH]
                images = paint([texts[one] for one in chunk], start)
                file.writelines(f"{one}\t{as_base64(image)}\n" for one, image in zip(chunk, images, strict=True))
                file.flush()
                advance(len(chunk), "")
        with open(partial, encoding="utf-8") as lines, atomic_write(path) as file:
            next(lines)
            file.writelines(lines)
        partial.unlink()
    except OSError as error:
        raise CcmbError(f"{path}: cannot be written ({error.strerror or error})") from None


def _lines_kept(partial: Path, head: str, ids: Sequence[str]) -> int:
    """How many ids a stopped run painted, in whole batches; its file ends behind them. One of other settings is left.

    In whole batches, since an image depends a little on those that it is painted with.
    """
    ends = [0]
    if partial.exists():
        with open(partial, "rb") as file:
            if file.readline() == head.encode():
                ends = [file.tell()]
                for one, line in zip(ids, file, strict=False):
                    if not line.endswith(b"\n") or not line.startswith(f"{one}\t".encode()):
                        break
                    ends.append(ends[-1] + len(line))
    done = len(ends) - 1
    done -= done % BATCH if done < len(ids) else 0
    with open(partial, "r+b" if ends[0] else "wb") as file:
        file.truncate(ends[done])
        if not ends[0]:
            file.write(head.encode())
    return done


def as_base64(image: Image.Image) -> str:
    """A PNG."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def within_length(processor: R2D2Processor, text: str) -> str:
    """The beginning of a text that the model reads whole; titles of goods are long."""
    while len(text) > 1 and processor.lengths([text])[0] > processor.max_text_tokens:
        text = text[:-1]
    return text
