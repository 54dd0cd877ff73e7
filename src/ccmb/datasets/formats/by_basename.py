"""Images of a folder, tar or pack by their base name, at any depth."""

from __future__ import annotations

import posixpath
from functools import cached_property

from ccmb.data.images.content import is_image_name
from ccmb.data.images.source import Extent, ImageSource


class NamedImages(ImageSource):
    """Other images by base name. If several have the same name, the first by its path counts.

    Attributes:
        ambiguous: base names that several images have.
    """

    def __init__(self, inner: ImageSource) -> None:
        super().__init__(inner.path)
        self._inner = inner
        self._paths: dict[str, str] = {}
        self.ambiguous: set[str] = set()
        for path in inner.names:
            name = posixpath.basename(path)
            if self._paths.setdefault(name, path) != path:
                self.ambiguous.add(name)
        # The names by the usual form of their suffix, and without suffix; of several the first one counts.
        self._alike: dict[str, str] = {}
        self._of_stem: dict[str, str] = {}
        for name in filter(is_image_name, self.names):
            self._alike.setdefault(_usual(name), name)
            self._of_stem.setdefault(posixpath.splitext(name)[0], name)

    @cached_property
    def names(self) -> list[str]:
        return sorted(self._paths)

    def resolve(self, written: str) -> str | None:
        """The name of the image that a text file refers to by an id or a path, with or without suffix; or None."""
        name = posixpath.basename(written.replace("\\", "/"))
        if name in self._paths:
            return name
        stem = posixpath.splitext(name)[0] if is_image_name(name) else name
        if stem in self._paths:
            return stem
        return self._alike.get(_usual(name)) or self._of_stem.get(name)

    def raw(self, name: str) -> bytes:
        """See `ImageSource.raw`."""
        return self._inner.raw(self._paths.get(name, name))

    def _find(self, name: str) -> Extent | None:
        path = self._paths.get(name)
        return None if path is None else self._inner._find(path)


def _usual(name: str) -> str:
    """The name with its suffix in small letters, and `.jpg` for any suffix of JPEG."""
    stem, suffix = posixpath.splitext(name)
    suffix = suffix.lower()
    return stem + (".jpg" if suffix in (".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg") else suffix)
