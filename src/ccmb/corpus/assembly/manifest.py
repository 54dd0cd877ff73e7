"""`manifest.json`: every file of a corpus with its size and checksum. It is written last: without it a corpus is not
whole."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, write_json

MANIFEST = "manifest.json"
FORMAT = 1


def write_manifest(out: Path, counts: dict[str, Any]) -> None:
    """Of the files that a corpus consists of; the same corpus has the same manifest."""
    files = [
        {"name": str(path.relative_to(out)), "bytes": path.stat().st_size, "sha256": digest_of_file(path)}
        for path in files_of_corpus(out)
    ]
    write_json(out / MANIFEST, {"format": FORMAT, **counts, "files": files})


def read_manifest(out: Path) -> dict[str, Any]:
    """
    Raises:
        CcmbError: the folder holds no whole corpus.
    """
    if not (out / MANIFEST).exists():
        raise CcmbError(f"{out}: no {MANIFEST}, so no whole corpus; run ccmb corpus build again to go on with it")
    found: dict[str, Any] = read_json(out / MANIFEST)
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("files"), list):
        raise CcmbError(f"{out / MANIFEST}: not the manifest of a corpus of this version")
    return found


def files_of_corpus(out: Path) -> list[Path]:
    """What goes with a corpus when it is handed on: not the folder `work`, nor what `ccmb corpus stats` writes."""
    single = [out / name for name in ("recipe.yaml", "funnel.json", "README.md", "README.zh.md")]
    many = [
        path for pattern in ("shards/*.tar", "shards/shards.jsonl", "index/*.parquet") for path in out.glob(pattern)
    ]
    return sorted(path for path in [*single, *many] if path.exists())


def digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
