"""Small file helpers that every room shares: atomic writing and JSON lines."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ccmb.core.errors import CcmbError
from ccmb.core.passed_over import OF_CORPUS, OF_INDEX, PassedOver, why_passed_over
from ccmb.core.text.files import read_text, text_lines

# What an index of pictures consists of, see `ccmb.search.index_folder`: it holds copies of pictures.
# What a corpus that is being built, or is whole, consists of: it is made of what may lie beside it.
_CORPUS_RECORD, _CORPUS_FILES = os.path.join("work", "corpus.json"), {"manifest.json", "funnel.json"}
_INDEX_FOLDERS = ("downloads", "uploads")
_INDEX_RECORD, _INDEX_FILES = "index.json", frozenset(("vectors.db", "thumbnails.db", "mirror.db"))


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it takes the name `path` only once it is whole and on disk.

    A crash at any moment leaves either the old file or the new one, and at worst a stray `.NAME.*.tmp`. Missing
    folders are made. `mode` is "w" (UTF-8 text) or "wb".

    Raises:
        CcmbError: the disk is full or not writable; the message names `path`, and the old file stays.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with atomic_path(path) as temporary, open(temporary, mode, **text) as file:  # type: ignore[call-overload]
        yield file


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, for code that writes a file or a folder by name; it becomes `path` once whole.

    Raises:
        CcmbError: the disk is full or not writable, or `path` is a folder that holds something; the message names it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for written in temporary.rglob("*") if temporary.is_dir() else [temporary]:
            if written.is_file():
                with open(written, "rb") as file:
                    os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise CcmbError(f"{path}: could not be written ({error})") from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, for code that writes several files; once all are whole and on disk, each
    takes the place of that of its name in `folder`. What a killed process left of such a folder is removed.

    Raises:
        CcmbError: the disk is full or not writable; the message names `folder`.
    """
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for written in temporary.iterdir():
            with open(written, "rb") as file:
                os.fsync(file.fileno())
        folder.mkdir(exist_ok=True)
        for written in temporary.iterdir():
            os.replace(written, folder / written.name)
        sync_folder(folder)
    except OSError as error:
        raise CcmbError(f"{folder}: could not be written ({error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sole_use(folder: Path, doing: str) -> IO[str]:
    """An open file that keeps a second process out of the folder until it is closed; one that is killed keeps none out.

    What such a one left half written beside it is removed.

    Args:
        doing: what the other process does, for the message.

    Raises:
        CcmbError: another process is at it, or the folder cannot be written.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CcmbError(f"{folder}: another process {doing}") from None
    except OSError as error:
        raise CcmbError(f"{folder}: could not be written ({error.strerror or error})") from None
    for left in folder.glob(".*.tmp"):
        if left.is_file():
            left.unlink()
    return lock


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_identity(path: str) -> object:
    """The same for one file by several paths: links of either kind, and folders that are mounted twice."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return path  # one behind a URL, or one that whoever opens it will say is missing
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def is_index_folder(path: str) -> bool:
    """Whether a folder is an index of this package, which holds copies of pictures."""
    return os.path.isfile(f"{path}/{_INDEX_RECORD}") and any(os.path.exists(f"{path}/{name}") for name in _INDEX_FILES)


def walk_files(
    folder: str | Path, passed_over: PassedOver | None = None, unreadable: list[str] | None = None
) -> Iterator[str]:
    """Names of all files below a folder, relative and with forward slashes, in no order.

    Links to folders are followed, but for those that lead back to a folder that they lie in. Folders that are hidden,
    a system's own (`ccmb.core.passed_over`) or an index or corpus of this package are not entered.

    Args:
        passed_over: takes note of these.
        unreadable: takes the names of folders that cannot be read; without it the first one ends the walk.

    Raises:
        CcmbError: a folder cannot be read; the message names it.
    """
    root = str(folder)
    passed_over = PassedOver() if passed_over is None else passed_over

    def inside(path: str) -> str:
        return os.path.relpath(path, root).replace(os.sep, "/")

    def on_error(error: OSError) -> None:
        if unreadable is None:
            raise CcmbError(f"{error.filename}: cannot be read ({error.strerror or error})") from None
        unreadable.append(inside(error.filename))

    real = Path(os.path.realpath(root))
    above = {root: frozenset(map(str, (real, *real.parents)))}
    for place, folders, files in os.walk(root, onerror=on_error, followlinks=True):
        outer, kept = above.pop(place), []
        is_index = _INDEX_RECORD in files and not _INDEX_FILES.isdisjoint((*files, *folders))
        is_corpus = os.path.exists(os.path.join(place, _CORPUS_RECORD)) or {*files} >= _CORPUS_FILES
        if (is_index or is_corpus) and place != root:
            passed_over.add(inside(place), OF_INDEX if is_index else OF_CORPUS)
            folders.clear()
            continue
        for name in folders:
            path = os.path.join(place, name)
            if reason := OF_INDEX if is_index and name in _INDEX_FOLDERS else why_passed_over(name):
                passed_over.add(inside(path), reason)
                continue
            target = os.path.realpath(path)
            if target not in outer:
                above[path] = outer | {target}
                kept.append(name)
        folders[:] = kept
        here = inside(place)
        yield from (name if here == "." else f"{here}/{name}" for name in files)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        CcmbError: the file cannot be read or is not JSON; the message names it.
    """
    text = read_text(path)
    try:
        return _parse(text)
    except ValueError as error:
        raise CcmbError(f"{path}: not valid JSON ({error})") from None


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSON-lines file, or of one that is a JSON array of objects, with the
    number of the line that each begins in; blank lines are passed over.

    Raises:
        CcmbError: the file cannot be read, or a line is not a JSON object; the message names file and line.
    """
    is_first = True
    lines = enumerate(text_lines(path), start=1)
    for number, line in lines:
        if not line.strip():
            continue
        if is_first and line.lstrip().startswith("["):
            yield from _objects_of_array(path, "\n".join([line, *(more for _, more in lines)]), number)
        else:
            yield number, _object(path, number, line, "; give a JSON object a line" if is_first else "")
        is_first = False


def _objects_of_array(path: str | Path, text: str, number: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a text that is one array, which begins in line `number`."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    at = counted = text.index("[") + 1
    try:
        _parse(text)
    except ValueError as error:
        raise CcmbError(f"{path}: not valid JSON ({error})") from None
    while text[at := between.match(text, at).end()] != "]":  # type: ignore[union-attr]
        number += text.count("\n", counted, at)
        value, end = decoder.raw_decode(text, at)
        if not isinstance(value, dict):
            raise CcmbError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
        yield number, value
        counted, at = at, end


def _object(path: str | Path, number: int, line: str, fix: str) -> dict[str, Any]:
    try:
        value = _parse(line)
    except ValueError as error:
        raise CcmbError(f"{path}:{number}: not valid JSON ({error}){fix}") from None
    if not isinstance(value, dict):
        raise CcmbError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}{fix}")
    return value


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if "\n" in text.strip() else ""
        raise ValueError(f"{error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
