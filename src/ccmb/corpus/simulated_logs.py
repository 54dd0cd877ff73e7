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

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray
from pydantic import Field

from ccmb.corpus.spam_texts import broken, slightly_changed, spam
from ccmb.data.scene_drawing import draw_scene
from ccmb.data.scene_texts import GROUNDS, describe
from ccmb.data.scenes import Scene, scene_groups
from ccmb.files import atomic_write, write_json
from ccmb.progress import progress
from ccmb.training.recipe import Part

TextKind = Literal["good", "wrong", "exact_duplicate", "near_duplicate", "spam"]
ROWS_PER_FILE = 250_000
DAY, FIRST_DAY = 86_400, 1_700_006_400
DOMAINS = ("tu.example.com", "pic.example.cn", "bbs.example.net", "blog.example.org", "shop.example.com")


class SimulatedWeb(Part):
    """How large the world is, and which share of what is planted."""

    pictures: int = Field(300, gt=1)
    impressions: int = Field(200_000, gt=0, description="of people; those of bots come on top")
    size: int = Field(128, gt=15, description="side of the pictures in pixels; see `draw`")
    draw: bool = Field(True, description="off: no pictures are written, for logs alone")
    base_url: str = Field("http://127.0.0.1:8000", description="where `pictures/` is served")
    queries: int = Field(3, gt=0, description="true queries of each picture")
    wrong_pairs: float = Field(0.4, ge=0, description="pairs with a false query, for each pair with a true one")
    exact_duplicates: float = Field(
        0.3, ge=0, le=1, description="share of pages that stand on a second site as they are"
    )
    near_duplicates: float = Field(0.3, ge=0, le=1, description="share of pages that a second site changed a little")
    reposts: float = Field(
        0.1, ge=0, le=1, description="share of pictures that stand under a second link, texts changed"
    )
    spam: float = Field(0.3, ge=0, le=1, description="share of pictures with a page that says nothing, or advertises")
    dead_links: float = Field(0.1, ge=0, le=1, description="share of links without a picture")
    positions: int = Field(20, gt=0)
    examination: float = Field(0.8, ge=0, description="a result at position k is looked at with probability k^-this")
    visits: int = Field(20, gt=0, description="impressions of a visitor, on average")
    bots: float = Field(0.002, ge=0, le=1, description="bots for each visitor: half crawl, half click on false pairs")
    repeated: float = Field(0.05, ge=0, le=1, description="impressions that a visitor has of the same pair once more")
    days: int = Field(7, gt=0)
    seed: int = Field(0, ge=0, lt=2**32)


@dataclass(slots=True)
class Web:
    """What is on the simulated web; lists of equal length belong together."""

    urls: list[str] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)
    pages: list[dict[str, str]] = field(default_factory=list)
    # Of each text: picture, field, text, kind, and the number of the text that it copies, or its own.
    truth: list[tuple[int, str, str, TextKind, int]] = field(default_factory=list)
    # Of each pair of the log: picture, query, whether the query is true.
    pairs: list[tuple[int, str, bool]] = field(default_factory=list)

    def add_text(self, picture: int, name: str, text: str, kind: TextKind, origin: int | None = None) -> int:
        number = len(self.truth)
        self.truth.append((picture, name, text, kind, number if origin is None else origin))
        return number


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


def make_web(of: SimulatedWeb, rng: random.Random) -> Web:
    """Pictures, pages and pairs, without the log."""
    web = Web()
    groups = scene_groups("train", of.seed, 0.0)
    said: dict[str, tuple[str, str]] = {}  # query -> (colour, kind) of the thing it names
    for number in range(of.pictures):
        first_text = len(web.truth)
        picture = _add_picture(web, next(groups)[0], f"{number:06d}", of, rng, said)
        if rng.random() < of.reposts:
            _add_repost(web, picture, first_text, of, rng)
    _add_wrong_pairs(web, said, of, rng)
    return web


def _add_picture(
    web: Web, scene: Scene, name: str, of: SimulatedWeb, rng: random.Random, said: dict[str, tuple[str, str]]
) -> int:
    picture = len(web.urls)
    web.urls.append(f"{of.base_url}/pictures/{name}.jpg")
    web.scenes.append(scene)
    queries: dict[str, None] = {}
    while len(queries) < of.queries:
        thing = rng.choice(scene.things)
        where = rng.choice(("", *(f"{ground}的" for ground in GROUNDS[scene.background])))
        query = f"{where}{thing.colour}色{thing.kind}{rng.choice(('', '', '图片', '插图'))}"
        said[query] = (thing.colour, thing.kind)
        queries[query] = None
    for query in queries:
        web.pairs.append((picture, query, True))
        web.add_text(picture, "query", query, "good")
    texts = describe(scene, rng)
    title, content = (web.add_text(picture, *of_page, "good") for of_page in _of_page(texts.title, texts.content))
    _add_page(web, picture, texts.title, texts.content, rng)
    if rng.random() < of.exact_duplicates:
        _add_page(web, picture, texts.title, texts.content, rng)
        web.add_text(picture, "title", texts.title, "exact_duplicate", title)
        web.add_text(picture, "content", texts.content, "exact_duplicate", content)
    if rng.random() < of.near_duplicates:
        _add_changed_page(web, picture, title, content, rng)
    if rng.random() < of.spam:
        one, other = (rng.choice((spam(rng), broken(texts.title, rng))) for _ in range(2))
        _add_page(web, picture, one, other, rng)
        for of_page in _of_page(one, other):
            web.add_text(picture, *of_page, "spam")
    return picture


def _of_page(title: str, content: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("title", title), ("content", content)


def _add_repost(web: Web, of_picture: int, first_text: int, of: SimulatedWeb, rng: random.Random) -> None:
    """The same picture under another link, found by one of its queries, with its texts changed a little."""
    picture = len(web.urls)
    web.urls.append(web.urls[of_picture].replace(".jpg", "-repost.jpg"))
    web.scenes.append(web.scenes[of_picture])
    query = web.truth[first_text][2]
    web.pairs.append((picture, query, True))
    web.add_text(picture, "query", query, "good")
    title = first_text + of.queries
    _add_changed_page(web, picture, title, title + 1, rng)


def _add_changed_page(web: Web, picture: int, title: int, content: int, rng: random.Random) -> None:
    changed = slightly_changed(web.truth[title][2], rng), slightly_changed(web.truth[content][2], rng)
    _add_page(web, picture, changed[0], changed[1], rng)
    for origin, of_page in zip((title, content), _of_page(*changed), strict=True):
        web.add_text(picture, *of_page, "near_duplicate", origin)


def _add_page(web: Web, picture: int, title: str, content: str, rng: random.Random) -> None:
    url = web.urls[picture]
    web.pages.append(
        {
            "Url": f"https://{rng.choice(DOMAINS)}/{len(web.pages):07d}.html",
            "Title": title,
            "Content": content,
            "Keywords": ",".join(thing.kind for thing in web.scenes[picture].things),
            "ImageUrl": url,
            "ImageKey": hashlib.blake2b(url.encode(), digest_size=8).hexdigest(),
        }
    )


def _add_wrong_pairs(web: Web, said: dict[str, tuple[str, str]], of: SimulatedWeb, rng: random.Random) -> None:
    """Queries that name a thing which the picture does not show."""
    queries = list(said)
    for _ in range(round(of.wrong_pairs * len(web.pairs))):
        picture = rng.randrange(len(web.urls))
        shown = {(thing.colour, thing.kind) for thing in web.scenes[picture].things}
        query = rng.choice(queries)
        if said[query] not in shown:
            web.pairs.append((picture, query, False))
    web.pairs = list(dict.fromkeys(web.pairs))
    for picture, query, true in web.pairs:
        if not true:
            web.add_text(picture, "query", query, "wrong")


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
                # A repost is the same drawing in another size and quality.
                repost = "-repost" in name
                picture = draw_scene(scene, of.size, random.Random(f"{of.seed}/{name.replace('-repost', '')}"))
                if repost:
                    picture = picture.resize((of.size * 7 // 8,) * 2)
                with atomic_write(folder / name, "wb") as file:
                    picture.save(file, "JPEG", quality=75 if repost else 92)
            advance(1)
