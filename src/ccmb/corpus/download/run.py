"""From a list of links to images on disk: fetched, checked, made smaller, hashed, and filtered.

Each link ends with a status. It is "ok", or why the bytes could not be fetched (`ccmb.fetch.fetcher`), or why they are
not kept (`ccmb.corpus.download.filters`, "not_an_image" or "undecodable"). `ccmb.corpus.download.parts` describes the
files and how a killed download goes on. The same links and answers give the same bytes, however often the download was
interrupted.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, Field

from ccmb.core.config.base import ConfigBase
from ccmb.core.config.retired_keys import renamed_values
from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, sole_use, write_json
from ccmb.core.journal import first_difference
from ccmb.core.progress import Advance, progress
from ccmb.corpus.download.filters import ImageFilters
from ccmb.corpus.download.parts import DownloadPart, Link, finished_row
from ccmb.corpus.download.resize import Prepared, StoredForm, prepare
from ccmb.fetch.fetcher import Fetcher, HttpOptions, is_transient

SETTINGS = "download.json"


class DownloadOptions(ConfigBase):
    """All options of a download."""

    model_config = ConfigDict(frozen=True)
    RETIRED: ClassVar = {"form": "resize", "window": "max_pending", "decoders": "decode_threads"}
    network: HttpOptions = HttpOptions()
    filters: ImageFilters = ImageFilters()
    resize: StoredForm = StoredForm()
    rows_per_part: int = Field(10_000, gt=0, description="links whose results share an index and a tar")
    max_pending: int = Field(
        4096,
        gt=0,
        description="links in progress at once; most of them wait for their host, the others for a connection",
    )
    decode_threads: int | None = Field(None, gt=0, description="threads that decode; empty: one for each core")
    deadline: float | None = Field(
        None, gt=0, description='seconds after which all unfinished links end with the status "deadline"'
    )


@dataclass(slots=True)
class Downloaded:
    """What a folder of downloads holds now.

    Attributes:
        statuses: the number of rows with each status, over all calls.
        asked: how many links this call requested.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    parts: int = 0
    asked: int = 0

    @property
    def rows(self) -> int:
        return self.statuses.total()


def download(
    links: Iterable[Link],
    total: int,
    out: Path,
    options: DownloadOptions | None = None,
    retry_failed: bool = False,
) -> Downloaded:
    """Fetch the images of all links that are not done yet. Call it again to go on after any interruption.

    Args:
        links: the same links in the same order on each call; a URL that is listed twice is fetched twice.
        total: how many links there are, for the progress bar; `links` may be a generator.
        retry_failed: whether to retry links that failed but may succeed another day, see `is_transient`.

    Raises:
        CcmbError: the folder holds the downloads of other links or with other settings, is in use, or is full.
    """
    options = options or DownloadOptions()
    with sole_use(out, "downloads into this folder"):
        _check_settings(out, options)
        work = _Work(out, options, retry_failed)
        with progress("download", total, "images") as advance:
            try:
                asyncio.run(work.run(links, advance))
            except* CcmbError as errors:
                raise errors.exceptions[0] from None
            except* OSError as errors:
                raise CcmbError(f"{out}: {errors.exceptions[0]}") from None
        if more := next(out.glob(f"part-{work.result.parts:06d}.*"), None):
            raise CcmbError(f"{more}: belongs to a longer list of links; choose another folder or remove this one")
    return work.result


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a row ended: its status, the attempts, how many bytes came, and the result for them."""

    status: str
    attempts: int = 0
    size: int = 0
    prepared: Prepared | None = None


class _Work:
    """One call of `download`."""

    def __init__(self, out: Path, options: DownloadOptions, retry_failed: bool) -> None:
        self.out, self.options, self.retry_failed = out, options, retry_failed
        self.result = Downloaded()
        self._window = asyncio.Semaphore(options.max_pending)

    async def run(self, links: Iterable[Link], advance: Advance) -> None:
        self._advance = advance
        loop, threads = asyncio.get_running_loop(), self.options.decode_threads or len(os.sched_getaffinity(0))
        loop.set_default_executor(ThreadPoolExecutor(self.options.network.dns_threads))
        self._deadline = loop.time() + self.options.deadline if self.options.deadline else None
        with ThreadPoolExecutor(threads) as self._decoders:
            async with Fetcher(self.options.network) as self._fetcher, asyncio.TaskGroup() as tasks:
                for part in _parts(links, self.out, self.options.rows_per_part):
                    self.result.parts += 1
                    await self._take_up(part, tasks)

    async def _take_up(self, part: DownloadPart, tasks: asyncio.TaskGroup) -> None:
        """Start all missing rows, as fast as others end."""
        if part.finished:
            statuses = await asyncio.to_thread(part.statuses)
            if not (self.retry_failed and any(map(is_transient, statuses))):
                self.result.statuses += statuses
                self._advance(len(part.links))
                return
            await asyncio.to_thread(part.reopen)
        await asyncio.to_thread(part.open)
        missing = part.missing
        self._advance(len(part.links) - len(missing))
        if not missing:  # killed just before its end
            await self._finish(part)
        for row in missing:
            await self._window.acquire()
            tasks.create_task(self._row(part, row))

    async def _row(self, part: DownloadPart, row_index: int) -> None:
        link, started = part.links[row_index - part.first], time.monotonic()
        ended = await self._in_time(link.url)
        row = finished_row(row_index, link, ended.status, ended.size, ended.prepared)
        image = ended.prepared.image if ended.prepared else b""
        part.add(row, image, time.monotonic() - started, ended.attempts)
        if part.complete:
            await self._finish(part)
        self._advance(1)
        self._window.release()

    async def _in_time(self, url: str) -> _Ended:
        if self._deadline is None:
            return await self._fetch(url)
        if asyncio.get_running_loop().time() >= self._deadline:
            return _Ended("deadline")
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._fetch(url)
        except TimeoutError:
            return _Ended("deadline")

    async def _fetch(self, url: str) -> _Ended:
        self.result.asked += 1
        fetched = await self._fetcher.fetch(url)
        if fetched.status != "ok":
            return _Ended(fetched.status, fetched.attempts)
        work = functools.partial(prepare, fetched.body, self.options.resize, self.options.filters)
        try:
            prepared = await asyncio.get_running_loop().run_in_executor(self._decoders, work)
        finally:
            self._fetcher.done(fetched)
        return _Ended(prepared.status, fetched.attempts, len(fetched.body), prepared)

    async def _finish(self, part: DownloadPart) -> None:
        await asyncio.to_thread(part.finish)
        self.result.statuses += await asyncio.to_thread(part.statuses)


def _parts(links: Iterable[Link], out: Path, rows_per_part: int) -> Iterator[DownloadPart]:
    remaining, first = iter(links), 0
    while rows := list(itertools.islice(remaining, rows_per_part)):
        yield DownloadPart(out, first // rows_per_part, first, rows)
        first += len(rows)


def _check_settings(out: Path, options: DownloadOptions) -> None:
    """Note what the stored images depend on, or refuse to mix them with others."""
    settings = options.model_dump(mode="json", include={"filters", "resize", "rows_per_part"})
    path = out / SETTINGS
    if not path.exists():
        write_json(path, settings)
    elif difference := first_difference(renamed_values(DownloadOptions, read_json(path))[0], settings):
        raise CcmbError(f"{out}: holds a download with another {difference}; choose another folder or remove this one")
