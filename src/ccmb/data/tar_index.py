"""The index of a tar's files, and which names stay inside a folder or tar."""

from __future__ import annotations

import posixpath
import tarfile
from pathlib import Path

from ccmb.core.errors import CcmbError

# bzip2, xz, zstd, zip.
_COMPRESSED = (b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")


def inner_name(name: str) -> str | None:
    """The name without `./` and the like, or None if it is not a relative path that stays inside."""
    clean = posixpath.normpath(name)
    if not name or "\0" in name or clean.startswith("/") or clean == "." or clean.split("/")[0] == "..":
        return None
    return clean


def read_index(plain: Path, path: Path) -> tuple[dict[str, tuple[int, int]], int]:
    """Offset and size of each regular file of a tar, and how many files are hidden by a later one of the same name.

    The last file of a name counts, as for tar itself.
    """
    repeated = 0
    members: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    try:
        with open(plain, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError("a file of negative size")
                name = inner_name(member.name)
                if name and member.isreg() and not member.issparse():
                    repeated += name in members
                    members[name] = member.offset_data, member.size
                elif name and (target := _target_of_link(name, member)):
                    links[name] = target
            # tarfile takes a broken header for the end; a whole tar ends in a block of zeros.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"damaged or cut short after {len(members)} files")
    except OSError as error:
        raise CcmbError(f"{path}: {error.strerror or error}") from None
    except (tarfile.TarError, ValueError) as error:
        reason = "it is compressed; decompress it first" if _is_compressed(path) else error
        raise CcmbError(f"{path}: not a readable tar of images ({reason})") from None
    for name in links:
        target, seen = links[name], {name}
        while target in links and target not in seen:
            seen.add(target)
            target = links[target]
        if target in members:
            members.setdefault(name, members[target])
    return members, repeated


def _target_of_link(name: str, member: tarfile.TarInfo) -> str | None:
    """The file in the tar that a hard or symbolic link names; None if the link leads outside."""
    if member.islnk():
        return inner_name(member.linkname)
    folder = posixpath.dirname(name)
    return inner_name(posixpath.join(folder, member.linkname)) if member.issym() else None


def _is_compressed(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(8).startswith(_COMPRESSED)
