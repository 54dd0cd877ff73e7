"""`manifest.json`: every file of a corpus with its size and checksum.

It is written last: a corpus without it is incomplete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, write_json
from ccmb.core.hashing import sha256_of_file

CORPUS_MANIFEST = "manifest.json"
FORMAT = 1


def write_corpus_manifest(out: Path, counts: dict[str, Any]) -> None:
    """Write the manifest of a corpus; the same corpus has the same manifest."""
    files = [
        {"name": str(path.relative_to(out)), "bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        for path in files_of_corpus(out)
    ]
    write_json(out / CORPUS_MANIFEST, {"format": FORMAT, **counts, "files": files})


def read_corpus_manifest(out: Path) -> dict[str, Any]:
    """Read the manifest of a corpus.

    Raises:
        CcmbError: the folder holds no complete corpus.
    """
    if not (out / CORPUS_MANIFEST).exists():
        raise CcmbError(
            f"{out}: no {CORPUS_MANIFEST}, so no whole corpus; run ccmb corpus build again to go on with it"
        )
    manifest: dict[str, Any] = read_json(out / CORPUS_MANIFEST)
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("files"), list)
    ):
        raise CcmbError(f"{out / CORPUS_MANIFEST}: not the manifest of a corpus of this version")
    return manifest


def files_of_corpus(out: Path) -> list[Path]:
    """The files that belong to a corpus: neither the folder `work` nor the page of `ccmb corpus stats`."""
    single = [out / name for name in ("recipe.yaml", "funnel.json", "README.md", "README.zh.md")]
    many = [
        path for pattern in ("shards/*.tar", "shards/shards.jsonl", "index/*.parquet") for path in out.glob(pattern)
    ]
    return sorted(path for path in [*single, *many] if path.exists())
