"""Official R2D2 and PRD2 checkpoints by name: `FILE.pth`, converted once into the user's cache.

Options follow as in a URL: `r2d2_pretrain_250m.pth?tokenizer=vocab.txt`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.data.states.cache_folder import user_cache
from ccmb.inference.models.sentence_transformers import options_of
from ccmb.r2d2.official import TOKENIZER, convert_from_official

OPTIONS = ("tokenizer", "key")
CONVERTED = "converted"  # folder of the user's cache


def is_checkpoint(source: str) -> bool:
    """Whether a name is that of a file, with options or without."""
    return Path(source.partition("?")[0]).is_file()


def converted_folder(name: str, source: str) -> Path:
    """The model folder of a checkpoint, made at its first use; a file that has changed is converted anew.

    Args:
        source: the file; as options `tokenizer`, a vocab.txt, a folder or a hub id, and `key`, as of `ccmb convert`.

    Raises:
        UsageError: an option is unknown.
        CcmbError: the file is no official checkpoint, or the tokenizer is not there; the message names it.
    """
    path, options = options_of(name, source, OPTIONS)
    tokenizer = options.get("tokenizer", TOKENIZER)
    identity = [options.get("key"), tokenizer, *map(_state, (path, tokenizer))]
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    folder = user_cache() / CONVERTED / f"{Path(path).stem}-{digest}"
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CcmbError(f"{folder.parent}: cannot be written ({error.strerror or error})") from None
        convert_from_official(path, folder, tokenizer, options.get("key"))
    return folder


def _state(name: str) -> tuple[str, int, int] | None:
    """What tells one state of a file from another; None of what is no file."""
    path = Path(name)
    if not path.is_file():
        return None
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns
