"""`ccmb serve` as a process of its own, on an index of drawn scenes, for benchmarks that load it from theirs."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.tokenizer import train_tokenizer
from ccmb.scenes.corpus import write_scene_corpus
from ccmb.search.indexing.indexer import build_index
from step_shapes import shape_config

SOURCE = Path(__file__).parent.parent / "src"
DRAWN = 96  # side of a drawn image, in pixels


@dataclass(frozen=True, slots=True)
class Shelf:
    """An index and texts to ask it for."""

    index: Path
    texts: list[str]


def shelf_options(parser: argparse.ArgumentParser, images: int) -> None:
    """What `open_shelf` reads."""
    parser.add_argument("--shape", choices=["test", "tiny", "base"], default="tiny", help="a preset's")
    parser.add_argument("--images", "--pictures", type=int, default=images, help="drawn and indexed")
    parser.add_argument("--index", type=Path, help="an index to be served instead, of which a copy is made")
    parser.add_argument("--pairs", type=Path, help="pairs.jsonl of a drawn corpus, whose captions it is asked for")
    parser.add_argument("--keep", type=Path, help="folder in which what is drawn and indexed is kept for another time")


def open_shelf(options: argparse.Namespace, folder: Path) -> tuple[Shelf, str]:
    """The index that is asked for, or one that is drawn, in `folder` if it is not kept; and its name in reports.

    Raises:
        SystemExit: there is an index without texts, or the other way round.
    """
    if (options.index is None) != (options.pairs is None):
        raise SystemExit("give --index and --pairs together")
    if options.index is not None:
        return Shelf(options.index, read_texts(options.pairs)), options.index.resolve().parent.name
    return draw_shelf(options.keep or folder, options.shape, options.images), options.shape


def draw_shelf(folder: Path, shape: str, images: int) -> Shelf:
    """Drawn scenes, indexed by a random network of a preset's shape; what was made before is taken as it is.

    Random weights cost what trained ones do; what is found means nothing.
    """
    model, corpus, index = folder / shape, folder / f"scenes-{images}", folder / f"{shape}-{images}"
    write_scene_corpus(corpus, 0, images, 0, DRAWN)
    texts = read_texts(corpus / "pairs.jsonl")
    if not (model / "model.safetensors").is_file():
        torch.manual_seed(0)
        config = shape_config(shape)
        R2D2Model(config).save_pretrained(model)
        tokenizer = train_tokenizer(
            texts, vocabulary=1000 if shape != "test" else 200, max_length=config.max_text_tokens
        )
        R2D2Processor(tokenizer, config.image_size, config.max_text_tokens).save_pretrained(model)
    network, processor = R2D2Model.from_pretrained(model).eval(), R2D2Processor.from_pretrained(model)
    build_index([corpus / "images.tar"], index, R2D2Stages(network, processor, source=model))
    return Shelf(index, texts)


def read_texts(pairs: Path) -> list[str]:
    """The captions of a drawn corpus."""
    lines = pairs.read_text(encoding="utf-8").splitlines()
    return [text for line in lines for text in json.loads(line)["captions"]]


@contextmanager
def serving(index: Path, *options: object, threads: int = 1) -> Iterator[tuple[str, int]]:
    """A server of a copy of an index, on a free port: its address and process id; it must end in order."""
    folder = tempfile.TemporaryDirectory()
    own, log = Path(folder.name) / "index", Path(folder.name) / "log"
    shutil.copytree(index, own)
    words = [sys.executable, "-m", "ccmb", "serve", str(own), "--port", "0", *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": str(threads)}
    with log.open("w") as log_file:  # no pipe: a server waits for whoever does not read it
        process = subprocess.Popen(words, env=environment, stderr=log_file)
    try:
        while not (address := re.search(r"serving at (http://\S+)", log.read_text())):
            if process.poll() is not None:
                raise RuntimeError(f"the server did not start: {log.read_text()}")
            time.sleep(0.05)
        yield address[1], process.pid
        process.terminate()
        if process.wait(timeout=60) != 0:
            raise RuntimeError("the server did not end in order")
    finally:
        process.kill()
        process.wait()
        folder.cleanup()


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{pid}: no such process")


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
