"""The content of the simulated web: images of synthetic scenes, and pages with good, doubled and spam texts."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict, Field

from ccmb.core.config.base import ConfigBase
from ccmb.corpus.simulation.spam import broken, slightly_changed, spam
from ccmb.scenes.scene import Scene, scene_groups
from ccmb.scenes.texts import GROUNDS, describe

TextKind = Literal["good", "wrong", "exact_duplicate", "near_duplicate", "spam"]
DOMAINS = ("tu.example.com", "pic.example.cn", "bbs.example.net", "blog.example.org", "shop.example.com")


class SimulatedWeb(ConfigBase):
    """The size of the simulated web, and the shares of false, doubled and spam texts in it."""

    model_config = ConfigDict(populate_by_name=True)

    images: int = Field(300, gt=1, alias="pictures")
    impressions: int = Field(200_000, gt=0, description="impressions of people; those of bots come on top")
    size: int = Field(128, gt=15, description="side of the images in pixels; see `draw`")
    draw: bool = Field(True, description="write the images; off: only pages and logs")
    base_url: str = Field("http://127.0.0.1:8000", description="the URL of the folder with `pictures/`")
    queries: int = Field(3, gt=0, description="true queries of each image")
    wrong_pairs: float = Field(0.4, ge=0, description="pairs with a false query, for each pair with a true one")
    exact_duplicates: float = Field(0.3, ge=0, le=1, description="share of pages that a second site copied unchanged")
    near_duplicates: float = Field(
        0.3, ge=0, le=1, description="share of pages that a second site copied with small changes"
    )
    reposts: float = Field(0.1, ge=0, le=1, description="share of images with a second link and changed texts")
    spam: float = Field(0.3, ge=0, le=1, description="share of images with a page of empty phrases or advertisements")
    dead_links: float = Field(0.1, ge=0, le=1, description="share of links without an image")
    positions: int = Field(20, gt=0)
    examination: float = Field(0.8, ge=0, description="people look at a result at position k with probability k^-this")
    visits: int = Field(20, gt=0, description="impressions of a visitor, on average")
    bots: float = Field(0.002, ge=0, le=1, description="bots for each visitor: half crawl, half click on false pairs")
    repeated: float = Field(
        0.05, ge=0, le=1, description="share of impressions that repeat a pair for the same visitor"
    )
    days: int = Field(7, gt=0)
    seed: int = Field(0, ge=0, lt=2**32)


@dataclass(slots=True)
class Web:
    """The content of the simulated web. `urls` and `scenes` have one entry for each image."""

    urls: list[str] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)
    pages: list[dict[str, str]] = field(default_factory=list)
    # For each text: image, field, text, kind, and the index of the text that it copies, or its own.
    truth: list[tuple[int, str, str, TextKind, int]] = field(default_factory=list)
    # For each pair of the log: image, query, whether the query is true.
    pairs: list[tuple[int, str, bool]] = field(default_factory=list)

    def add_text(self, image: int, name: str, text: str, kind: TextKind, origin: int | None = None) -> int:
        index = len(self.truth)
        self.truth.append((image, name, text, kind, index if origin is None else origin))
        return index


def make_web(settings: SimulatedWeb, rng: random.Random) -> Web:
    """Make images, pages and pairs; the log is written elsewhere."""
    web = Web()
    groups = scene_groups("train", settings.seed, 0.0)
    named: dict[str, tuple[str, str]] = {}  # query -> (colour, kind) of the thing it names
    for index in range(settings.images):
        first_text = len(web.truth)
        image = _add_image(web, next(groups)[0], name=f"{index:06d}", settings=settings, rng=rng, named=named)
        if rng.random() < settings.reposts:
            _add_repost(web, image, first_text, settings, rng)
    _add_wrong_pairs(web, named, settings, rng)
    return web


def _add_image(
    web: Web, scene: Scene, name: str, settings: SimulatedWeb, rng: random.Random, named: dict[str, tuple[str, str]]
) -> int:
    image = len(web.urls)
    web.urls.append(f"{settings.base_url}/pictures/{name}.jpg")
    web.scenes.append(scene)
    queries: dict[str, None] = {}
    while len(queries) < settings.queries:
        thing = rng.choice(scene.things)
        where = rng.choice(("", *(f"{ground}的" for ground in GROUNDS[scene.background])))
        query = f"{where}{thing.colour}色{thing.kind}{rng.choice(('', '', '图片', '插图'))}"
        named[query] = (thing.colour, thing.kind)
        queries[query] = None
    for query in queries:
        web.pairs.append((image, query, True))
        web.add_text(image, "query", query, "good")
    texts = describe(scene, rng)
    title, content = (web.add_text(image, *page_text, "good") for page_text in _of_page(texts.title, texts.content))
    _add_page(web, image, texts.title, texts.content, rng)
    if rng.random() < settings.exact_duplicates:
        _add_page(web, image, texts.title, texts.content, rng)
        web.add_text(image, "title", texts.title, "exact_duplicate", title)
        web.add_text(image, "content", texts.content, "exact_duplicate", content)
    if rng.random() < settings.near_duplicates:
        _add_changed_page(web, image, title, content, rng)
    if rng.random() < settings.spam:
        one, other = (rng.choice((spam(rng), broken(texts.title, rng))) for _ in range(2))
        _add_page(web, image, one, other, rng)
        for page_text in _of_page(one, other):
            web.add_text(image, *page_text, "spam")
    return image


def _of_page(title: str, content: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("title", title), ("content", content)


def _add_repost(web: Web, original: int, first_text: int, settings: SimulatedWeb, rng: random.Random) -> None:
    """Add the same image under another link, with slightly changed texts and one of its queries."""
    image = len(web.urls)
    web.urls.append(repost_url(web.urls[original]))
    web.scenes.append(web.scenes[original])
    query = web.truth[first_text][2]
    web.pairs.append((image, query, True))
    web.add_text(image, "query", query, "good")
    title = first_text + settings.queries
    _add_changed_page(web, image, title, title + 1, rng)


def repost_url(url: str) -> str:
    """The second link of an image. Its name says whether it is the same file (a mirror) or another size (a repost)."""
    name = url.rpartition("/")[2]
    is_mirror = hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % 2
    return url.removesuffix(".jpg") + ("-mirror.jpg" if is_mirror else "-repost.jpg")


def _add_changed_page(web: Web, image: int, title: int, content: int, rng: random.Random) -> None:
    changed = slightly_changed(web.truth[title][2], rng), slightly_changed(web.truth[content][2], rng)
    _add_page(web, image, changed[0], changed[1], rng)
    for origin, page_text in zip((title, content), _of_page(*changed), strict=True):
        web.add_text(image, *page_text, "near_duplicate", origin)


def _add_page(web: Web, image: int, title: str, content: str, rng: random.Random) -> None:
    url = web.urls[image]
    web.pages.append(
        {
            "Url": f"https://{rng.choice(DOMAINS)}/{len(web.pages):07d}.html",
            "Title": title,
            "Content": content,
            "Keywords": ",".join(thing.kind for thing in web.scenes[image].things),
            "ImageUrl": url,
            "ImageKey": hashlib.blake2b(url.encode(), digest_size=8).hexdigest(),
        }
    )


def _add_wrong_pairs(web: Web, named: dict[str, tuple[str, str]], settings: SimulatedWeb, rng: random.Random) -> None:
    """Add pairs with false queries: they name a thing that the image does not show."""
    queries = list(named)
    for _ in range(round(settings.wrong_pairs * len(web.pairs))):
        image = rng.randrange(len(web.urls))
        shown = {(thing.colour, thing.kind) for thing in web.scenes[image].things}
        query = rng.choice(queries)
        if named[query] not in shown:
            web.pairs.append((image, query, False))
    web.pairs = list(dict.fromkeys(web.pairs))
    for image, query, true in web.pairs:
        if not true:
            web.add_text(image, "query", query, "wrong")
