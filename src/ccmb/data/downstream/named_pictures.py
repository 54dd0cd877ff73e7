"""Pictures of a folder, tar or pack found by their base name, wherever below they lie."""

from __future__ import annotations

import posixpath
from functools import cached_property

from ccmb.data.pictures import SUFFIXES, Extent, Pictures


class NamedPictures(Pictures):
    """Other pictures by base name; of equal ones the first by its path counts.

    Attributes:
        ambiguous: base names of several pictures.
    """

    def __init__(self, inner: Pictures) -> None:
        super().__init__(inner.path)
        self._inner = inner
        self._paths: dict[str, str] = {}
        self.ambiguous: set[str] = set()
        for path in inner.names:
            name = posixpath.basename(path)
            if self._paths.setdefault(name, path) != path:
                self.ambiguous.add(name)

    @cached_property
    def names(self) -> list[str]:
        return sorted(self._paths)

    def resolve(self, written: str) -> str | None:
        """The name of the picture that a text file means by an id or a path, with or without its suffix, or None."""
        name = posixpath.basename(written.replace("\\", "/"))
        stem, suffix = posixpath.splitext(name)
        stem = stem if suffix.lower() in SUFFIXES else name
        others = (stem, *(name + suffix for suffix in SUFFIXES))
        return next((other for other in (name, *others) if other in self._paths), None)

    def raw(self, name: str) -> bytes:
        """See `Pictures.raw`."""
        return self._inner.raw(self._paths.get(name, name))

    def _find(self, name: str) -> Extent | None:
        path = self._paths.get(name)
        return None if path is None else self._inner._find(path)
