"""A simulated search engine over synthetic scenes: images, pages about them, a click log, and the ground truth.

    pictures/000123.jpg        the images of the links; dead links have none
    pages.jsonl                Url, Title, Content, Keywords, ImageUrl, ImageKey
    impressions/part-*.parquet query, image_url, page_url, position, clicked, visitor, time
    truth.parquet              every text of the simulated web, with its kind
    truth.json                 shares, examination by position, bots and dead links

The log follows a position-based model. People look at a result with a probability that falls with its position. If they
look, they click with a probability that depends on the pair. The truth is known, so metrics on this log show how well
the steps work. They tell nothing about real logs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from ccmb.core.files import atomic_write, write_json
from ccmb.core.progress import progress
from ccmb.corpus.simulation.pages import SimulatedWeb, TextKind, Web, make_web
from ccmb.scenes.drawing import render_scene

ROWS_PER_FILE = 250_000
DAY, FIRST_DAY = 86_400, 1_700_006_400


def simulate(folder: Path, settings: SimulatedWeb) -> None:
    """Write the whole simulation into a folder; equal settings write equal bytes."""
    rng = random.Random(f"web/{settings.seed}")
    web = make_web(settings, rng)
    dead = [rng.random() < settings.dead_links for _ in web.urls]
    with atomic_write(folder / "pages.jsonl") as file:
        file.writelines(json.dumps(page, ensure_ascii=False) + "\n" for page in web.pages)
    about = _write_impressions(folder / "impressions", web, settings)
    _write_truth(folder / "truth.parquet", web, dead)
    dead_urls = [url for url, gone in zip(web.urls, dead, strict=True) if gone]
    write_json(folder / "truth.json", {"web": settings.model_dump(by_alias=True), **about, "dead_links": dead_urls})
    if settings.draw:
        _render(folder / "pictures", web, dead, settings)


def _write_impressions(folder: Path, web: Web, settings: SimulatedWeb) -> dict[str, object]:
    """Write the log, and return the truth about it."""
    rng = np.random.default_rng([settings.seed, 1])
    true = np.array([true for _, _, true in web.pairs])
    # Whether a pair is true has no influence on how often and how high it is shown.
    attraction = np.where(true, rng.beta(6, 9, len(true)), rng.beta(1, 40, len(true)))
    popularity = rng.lognormal(0, 0.4, len(true))
    usual_positions = np.minimum(rng.geometric(0.18, len(true)), settings.positions)
    examination = np.arange(1, settings.positions + 1, dtype=float) ** -settings.examination
    people = max(1, settings.impressions // settings.visits)
    files = -(-settings.impressions // ROWS_PER_FILE)
    for file_index in range(files):
        count = min(ROWS_PER_FILE, settings.impressions - file_index * ROWS_PER_FILE)
        pair = rng.choice(len(true), count, p=popularity / popularity.sum())
        visitor = rng.integers(0, people, count)
        again = rng.random(count) < settings.repeated
        again[0] = False
        pair[again], visitor[again] = pair[np.flatnonzero(again) - 1], visitor[np.flatnonzero(again) - 1]
        position = np.clip(usual_positions[pair] + rng.integers(-3, 4, count), 1, settings.positions)
        clicked = rng.random(count) < examination[position - 1] * attraction[pair]
        rows = Impressions(pair, position, clicked, visitor, rng.integers(0, settings.days * DAY, count))
        if file_index == files - 1:
            rows = rows + _bots(true, examination, people, settings, rng)
        _write_rows(folder / f"part-{file_index:05d}.parquet", rows, web)
    return {
        "examination": examination.tolist(),
        "people": people,
        "bots": [_name(people + bot) for bot in range(_bot_count(people, settings))],
    }


@dataclass(slots=True)
class Impressions:
    """Impressions as columns; pairs and visitors are given by index."""

    pair: NDArray[np.int64]
    position: NDArray[np.int64]
    clicked: NDArray[np.bool_]
    visitor: NDArray[np.int64]
    time: NDArray[np.int64]

    def __add__(self, other: Impressions) -> Impressions:
        both = [np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__]
        return Impressions(*both)


def _bot_count(people: int, settings: SimulatedWeb) -> int:
    return round(settings.bots * people)


def _bots(
    true: NDArray[np.bool_],
    examination: NDArray[np.float64],
    people: int,
    settings: SimulatedWeb,
    rng: np.random.Generator,
) -> Impressions:
    """The impressions of bots.

    Crawlers see thousands of results in a day and click on any of them. Paid clickers click on false pairs.
    """
    false = np.flatnonzero(~true)
    bots = []
    for bot in range(_bot_count(people, settings)):
        crawls = bot % 2 == 0 or not len(false)
        count = int(rng.integers(2500, 4000)) if crawls else int(rng.integers(40, 120))
        pair = rng.integers(0, len(true), count) if crawls else rng.choice(false, count)
        clicked = rng.random(count) < (0.1 if crawls else 0.95)
        day = int(rng.integers(0, settings.days)) * DAY
        position = rng.integers(1, len(examination) + 1, count)
        bots.append(
            Impressions(pair, position, clicked, np.full(count, people + bot), day + rng.integers(0, DAY, count))
        )
    nothing = Impressions(*(np.zeros(0, kind) for kind in (np.int64, np.int64, bool, np.int64, np.int64)))
    return sum(bots, nothing)


def _name(visitor: int) -> str:
    return f"v{visitor:08d}"


def _write_rows(path: Path, rows: Impressions, web: Web) -> None:
    queries = pa.array([query for _, query, _ in web.pairs])
    urls = pa.array([web.urls[image] for image, _, _ in web.pairs])
    # The search engine shows each image as it stands on the first of its pages.
    first_page: dict[str, str] = {}
    for page in web.pages:
        first_page.setdefault(page["ImageUrl"], page["Url"])
    pages = pa.array([first_page[web.urls[image]] for image, _, _ in web.pairs])
    names = pa.array([_name(visitor) for visitor in range(int(rows.visitor.max()) + 1)])
    table = pa.table(
        {
            "query": queries.take(pa.array(rows.pair)),
            "image_url": urls.take(pa.array(rows.pair)),
            "page_url": pages.take(pa.array(rows.pair)),
            "position": pa.array(rows.position, pa.int32()),
            "clicked": pa.array(rows.clicked.astype(np.int8)),
            "visitor": names.take(pa.array(rows.visitor)),
            "time": pa.array(FIRST_DAY + rows.time),
        }
    )
    with atomic_write(path, "wb") as file:
        parquet.write_table(table, file, compression="zstd")


def _write_truth(path: Path, web: Web, dead: list[bool]) -> None:
    """Write the texts of the ground truth: image_url, field, text, kind, origin and dead.

    `origin` is the row whose text this text copies, or its own row.
    """
    columns: dict[str, Callable[[tuple[int, str, str, TextKind, int]], object]] = {
        "image_url": lambda row: web.urls[row[0]],
        "field": lambda row: row[1],
        "text": lambda row: row[2],
        "kind": lambda row: row[3],
        "origin": lambda row: row[4],
        "dead": lambda row: dead[row[0]],
    }
    table = pa.table({name: [value_of(row) for row in web.truth] for name, value_of in columns.items()})
    with atomic_write(path, "wb") as file:
        parquet.write_table(table, file, compression="zstd")


def _render(folder: Path, web: Web, dead: list[bool], settings: SimulatedWeb) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with progress("draw", len(web.urls), "images") as advance:
        for url, scene, gone in zip(web.urls, web.scenes, dead, strict=True):
            name = url.rpartition("/")[2]
            if not gone:
                # A mirror has the same file; a repost is the same drawing in another size and quality.
                first, _, kind = name.removesuffix(".jpg").partition("-")
                repost = kind == "repost"
                image = render_scene(scene, settings.size, random.Random(f"{settings.seed}/{first}.jpg"))
                if repost:
                    image = image.resize((settings.size * 7 // 8,) * 2)
                with atomic_write(folder / name, "wb") as file:
                    image.save(file, "JPEG", quality=75 if repost else 92)
            advance(1)
