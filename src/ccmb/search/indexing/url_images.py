"""Copies of the images behind URLs in a folder of the index, so that ranking and showing them needs no network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_write
from ccmb.core.hashing import sha256_of_bytes
from ccmb.core.progress import progress
from ccmb.search.indexing.image_metadata import suffix_of

if TYPE_CHECKING:
    from ccmb.fetch.fetcher import Fetcher

_AT_ONCE = 256


def fetch_images(
    urls: Sequence[str], folder: Path, allow_private: Sequence[str] = (), proxy_from_environment: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Fetch the images behind URLs: the name of each in `folder`, and a line for each that failed.

    Images that are in the folder are not fetched again. Only public addresses are contacted, see
    `ccmb.fetch.address_guard`.

    Args:
        allow_private: private addresses or networks that may be contacted too.
        proxy_from_environment: use the proxies that the environment names, see `ccmb.fetch.proxies`.

    Raises:
        UsageError: an item of `allow_private` is not an address.
        CcmbError: the network client is not installed, or the folder cannot be written.
    """
    held = {path.stem: path.name for path in folder.glob("*.*")} if folder.is_dir() else {}
    names = {url: held[name_of(url)] for url in urls if name_of(url) in held}
    missing = [url for url in urls if url not in names]
    if not missing:
        return names, []
    try:
        from ccmb.fetch.fetcher import Fetcher, HttpOptions
    except ImportError:
        raise CcmbError("images behind URLs need aiohttp: pip install 'ccmb[corpus]'") from None
    network = HttpOptions(allow_private=tuple(allow_private), proxy_from_environment=proxy_from_environment)
    failed: list[str] = []

    async def run() -> None:
        with progress("fetch", len(missing), "images") as advance:
            async with Fetcher(network) as fetcher:
                for start in range(0, len(missing), _AT_ONCE):
                    part = missing[start : start + _AT_ONCE]
                    for url, result in zip(
                        part,
                        await asyncio.gather(*(_fetch(fetcher, part_url, folder) for part_url in part)),
                        strict=True,
                    ):
                        if result.startswith("!"):
                            failed.append(f"{url}: {result[1:]}")
                        else:
                            names[url] = result
                        advance()

    asyncio.run(run())
    return names, failed


def name_of(url: str) -> str:
    """The name of the image's file, without the suffix."""
    return sha256_of_bytes(url.encode("utf-8", "surrogateescape"))[:32]


async def _fetch(fetcher: Fetcher, url: str, folder: Path) -> str:
    """The file's name; or "!" and the reason of the failure."""
    fetched = await fetcher.fetch(url)
    try:
        if fetched.status != "ok":
            return f"!{fetched.status}"
        suffix = suffix_of(fetched.body)
        if suffix is None:
            return "!not an image"
        with atomic_write(folder / f"{name_of(url)}{suffix}", "wb") as file:
            file.write(fetched.body)
        return f"{name_of(url)}{suffix}"
    finally:
        fetcher.done(fetched)
