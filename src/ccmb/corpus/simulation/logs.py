"""A simulated search engine over the drawn world: pictures, pages about them, and a click log, with the truth beside.

    pictures/000123.jpg        what the links point to; dead links point to nothing
    pages.jsonl                Url, Title, Content, Keywords, ImageUrl, ImageKey
    impressions/part-*.parquet query, image_url, page_url, position, clicked, visitor, time
    truth.parquet              every text that was planted, with its kind
    truth.json                 shares, examination by position, bots and dead links

People look at a result with a probability that falls with its position, and click on what they looked at with one that
its pair has: a position-based model. What is true is known, so that figures on it say how well the steps work; they
say nothing of real logs.
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
from ccmb.scenes.drawing import draw_scene

ROWS_PER_FILE = 250_000
DAY, FIRST_DAY = 86_400, 1_700_006_400


def simulate(folder: Path, of: SimulatedWeb) -> None:
    """Write it all into the folder; the same values write the same bytes."""
    rng = random.Random(f"web/{of.seed}")
    web = make_web(of, rng)
    dead = [rng.random() < of.dead_links for _ in web.urls]
    with atomic_write(folder / "pages.jsonl") as file:
        file.writelines(json.dumps(page, ensure_ascii=False) + "\n" for page in web.pages)
    about = _write_impressions(folder / "impressions", web, of)
    _write_truth(folder / "truth.parquet", web, dead)
    dead_urls = [url for url, gone in zip(web.urls, dead, strict=True) if gone]
    write_json(folder / "truth.json", {"web": of.model_dump(), **about, "dead_links": dead_urls})
    if of.draw:
        _draw(folder / "pictures", web, dead, of)


def _write_impressions(folder: Path, web: Web, of: SimulatedWeb) -> dict[str, object]:
    """The log, and what is true of it."""
    rng = np.random.default_rng([of.seed, 1])
    true = np.array([true for _, _, true in web.pairs])
    # What is shown often and what is shown first has little to do with whether it is right.
    attraction = np.where(true, rng.beta(6, 9, len(true)), rng.beta(1, 40, len(true)))
    popularity = rng.lognormal(0, 0.4, len(true))
    places = np.minimum(rng.geometric(0.18, len(true)), of.positions)
    examination = np.arange(1, of.positions + 1, dtype=float) ** -of.examination
    people = max(1, of.impressions // of.visits)
    files = -(-of.impressions // ROWS_PER_FILE)
    for number in range(files):
        count = min(ROWS_PER_FILE, of.impressions - number * ROWS_PER_FILE)
        pair = rng.choice(len(true), count, p=popularity / popularity.sum())
        visitor = rng.integers(0, people, count)
        again = rng.random(count) < of.repeated
        again[0] = False
        pair[again], visitor[again] = pair[np.flatnonzero(again) - 1], visitor[np.flatnonzero(again) - 1]
        position = np.clip(places[pair] + rng.integers(-3, 4, count), 1, of.positions)
        clicked = rng.random(count) < examination[position - 1] * attraction[pair]
        rows = Rows(pair, position, clicked, visitor, rng.integers(0, of.days * DAY, count))
        if number == files - 1:
            rows = rows + _bots(true, examination, people, of, rng)
        _write_rows(folder / f"part-{number:05d}.parquet", rows, web)
    return {
        "examination": examination.tolist(),
        "people": people,
        "bots": [_name(people + bot) for bot in range(_bot_count(people, of))],
    }


@dataclass(slots=True)
class Rows:
    """Impressions; the pair is a number, and so is the visitor."""

    pair: NDArray[np.int64]
    position: NDArray[np.int64]
    clicked: NDArray[np.bool_]
    visitor: NDArray[np.int64]
    time: NDArray[np.int64]

    def __add__(self, other: Rows) -> Rows:
        both = [np.concatenate([getattr(self, of), getattr(other, of)]) for of in self.__slots__]
        return Rows(*both)


def _bot_count(people: int, of: SimulatedWeb) -> int:
    return round(of.bots * people)


def _bots(
    true: NDArray[np.bool_], examination: NDArray[np.float64], people: int, of: SimulatedWeb, rng: np.random.Generator
) -> Rows:
    """Crawlers read thousands of results in a day and click on any; others click on false pairs they are paid for."""
    false = np.flatnonzero(~true)
    found = []
    for bot in range(_bot_count(people, of)):
        crawls = bot % 2 == 0 or not len(false)
        count = int(rng.integers(2500, 4000)) if crawls else int(rng.integers(40, 120))
        pair = rng.integers(0, len(true), count) if crawls else rng.choice(false, count)
        clicked = rng.random(count) < (0.1 if crawls else 0.95)
        day = int(rng.integers(0, of.days)) * DAY
        position = rng.integers(1, len(examination) + 1, count)
        found.append(Rows(pair, position, clicked, np.full(count, people + bot), day + rng.integers(0, DAY, count)))
    nothing = Rows(*(np.zeros(0, kind) for kind in (np.int64, np.int64, bool, np.int64, np.int64)))
    return sum(found, nothing)


def _name(visitor: int) -> str:
    return f"v{visitor:08d}"


def _write_rows(path: Path, rows: Rows, web: Web) -> None:
    queries = pa.array([query for _, query, _ in web.pairs])
    urls = pa.array([web.urls[picture] for picture, _, _ in web.pairs])
    # The search engine shows each picture as it stands on the first of its pages.
    first_page: dict[str, str] = {}
    for page in web.pages:
        first_page.setdefault(page["ImageUrl"], page["Url"])
    pages = pa.array([first_page[web.urls[picture]] for picture, _, _ in web.pairs])
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
    """Columns image_url, field, text, kind, origin (the row whose text it copies, or its own) and dead."""
    columns: dict[str, Callable[[tuple[int, str, str, TextKind, int]], object]] = {
        "image_url": lambda row: web.urls[row[0]],
        "field": lambda row: row[1],
        "text": lambda row: row[2],
        "kind": lambda row: row[3],
        "origin": lambda row: row[4],
        "dead": lambda row: dead[row[0]],
    }
    table = pa.table({name: [of(row) for row in web.truth] for name, of in columns.items()})
    with atomic_write(path, "wb") as file:
        parquet.write_table(table, file, compression="zstd")


def _draw(folder: Path, web: Web, dead: list[bool], of: SimulatedWeb) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with progress("draw", len(web.urls), "pictures") as advance:
        for url, scene, gone in zip(web.urls, web.scenes, dead, strict=True):
            name = url.rpartition("/")[2]
            if not gone:
                # A mirror has the same file; a repost is the same drawing in another size and quality.
                first, _, kind = name.removesuffix(".jpg").partition("-")
                repost = kind == "repost"
                picture = draw_scene(scene, of.size, random.Random(f"{of.seed}/{first}.jpg"))
                if repost:
                    picture = picture.resize((of.size * 7 // 8,) * 2)
                with atomic_write(folder / name, "wb") as file:
                    picture.save(file, "JPEG", quality=75 if repost else 92)
            advance(1)
