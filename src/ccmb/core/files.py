"""File helpers for the whole package: atomic writing, walking folders, JSON and JSON lines."""

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

# Files of a corpus, finished or not. Its images may also lie beside it, so its folder is not searched.
_CORPUS_RECORD, _CORPUS_FILES = os.path.join("work", "corpus.json"), {"manifest.json", "funnel.json"}
# Files of an index, see `ccmb.search.index_folder`. It holds copies of images, so its folder is not searched.
_INDEX_FOLDERS = ("downloads", "uploads")
_INDEX_RECORD, _INDEX_FILES = "index.json", frozenset(("vectors.db", "thumbnails.db", "mirror.db"))


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it is renamed to `path` once it is complete and on disk.

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
    """A temporary path beside `path`, for code that writes a file or a folder by name; complete, it becomes `path`.

    Raises:
        CcmbError: the disk is full or not writable, or `path` is a folder that is not empty; the message names it.
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
    """A temporary folder beside `folder`, for code that writes several files.

    Once all files are complete and on disk, each replaces the file of its name in `folder`. Such folders that a killed
    process left are removed.

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
    """Lock a folder against other processes; the lock is an open file, and closing it unlocks the folder.

    The lock of a killed process ends with it. Incomplete files that such a process left in the folder are removed.

    Args:
        doing: what another process does with the folder, for the message.

    Raises:
        CcmbError: another process holds the lock, or the folder cannot be written.
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
    """An identity that is equal for all paths of a file: links of either kind, and folders that are mounted twice."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return path  # a URL, or a missing file, which is reported when it is opened
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def is_index_folder(path: str) -> bool:
    """Whether a folder is an index of this package, which holds copies of images."""
    return os.path.isfile(f"{path}/{_INDEX_RECORD}") and any(os.path.exists(f"{path}/{name}") for name in _INDEX_FILES)


def walk_files(
    folder: str | Path, passed_over: PassedOver | None = None, unreadable: list[str] | None = None
) -> Iterator[str]:
    """Names of all files below a folder, relative and with forward slashes, in no particular order.

    Links to folders are followed, unless they lead back to a folder that contains them. Hidden folders, system folders
    (`ccmb.core.passed_over`), and indexes and corpora of this package are not entered.

    Args:
        passed_over: collects the folders that are not entered.
        unreadable: collects the names of folders that cannot be read; without it the first such folder is an error.

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
    for current, folders, files in os.walk(root, onerror=on_error, followlinks=True):
        outer, kept = above.pop(current), []
        is_index = _INDEX_RECORD in files and not _INDEX_FILES.isdisjoint((*files, *folders))
        is_corpus = os.path.exists(os.path.join(current, _CORPUS_RECORD)) or {*files} >= _CORPUS_FILES
        if (is_index or is_corpus) and current != root:
            passed_over.add(inside(current), OF_INDEX if is_index else OF_CORPUS)
            folders.clear()
            continue
        for name in folders:
            path = os.path.join(current, name)
            if reason := OF_INDEX if is_index and name in _INDEX_FOLDERS else why_passed_over(name):
                passed_over.add(inside(path), reason)
                continue
            target = os.path.realpath(path)
            if target not in outer:
                above[path] = outer | {target}
                kept.append(name)
        folders[:] = kept
        prefix = inside(current)
        yield from (name if prefix == "." else f"{prefix}/{name}" for name in files)


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
    """Yield (line number from 1, object) of a JSON-lines file or of a file that is a JSON array of objects.

    The number is that of the line in which the object begins. Blank lines are skipped.

    Raises:
        CcmbError: the file cannot be read, or a line is not a JSON object; the message names file and line.
    """
    is_first = True
    lines = enumerate(text_lines(path), start=1)
    for line_number, line in lines:
        if not line.strip():
            continue
        if is_first and line.lstrip().startswith("["):
            yield from _objects_of_array(path, "\n".join([line, *(more for _, more in lines)]), line_number)
        else:
            yield line_number, _object(path, line_number, line, "; give a JSON object a line" if is_first else "")
        is_first = False


def _objects_of_array(path: str | Path, text: str, line_number: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a text that is one array, which begins in line `line_number`."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    at = counted = text.index("[") + 1
    try:
        _parse(text)
    except ValueError as error:
        raise CcmbError(f"{path}: not valid JSON ({error})") from None
    while text[at := between.match(text, at).end()] != "]":  # type: ignore[union-attr]
        line_number += text.count("\n", counted, at)
        value, end = decoder.raw_decode(text, at)
        if not isinstance(value, dict):
            raise CcmbError(f"{path}:{line_number}: expected a JSON object, found {type(value).__name__}")
        yield line_number, value
        counted, at = at, end


def _object(path: str | Path, line_number: int, line: str, fix: str) -> dict[str, Any]:
    try:
        value = _parse(line)
    except ValueError as error:
        raise CcmbError(f"{path}:{line_number}: not valid JSON ({error}){fix}") from None
    if not isinstance(value, dict):
        raise CcmbError(f"{path}:{line_number}: expected a JSON object, found {type(value).__name__}{fix}")
    return value


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if "\n" in text.strip() else ""
        raise ValueError(f"{error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
