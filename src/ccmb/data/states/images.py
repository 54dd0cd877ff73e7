"""The states of images by the images' names: what the loader hands over in place of pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

from ccmb.data.states.store import key_of


@dataclass(slots=True)
class StoredImages:
    """Keys of the images of a run.

    Attributes:
        digests: SHA-256 of each image's bytes, by its name.
        unreadable: a line for each image that cannot be used, by its name.
        mirrors: whether variations may be mirrored, so that texts decide on what they are.
    """

    digests: dict[str, bytes]
    unreadable: dict[str, str] = field(default_factory=dict)
    mirrors: bool = False

    def key(self, name: str, view: int, may_mirror: bool) -> bytes | str:
        """The key of an image's variation, or the reason why there is none."""
        if name in self.unreadable:
            return self.unreadable[name]
        return key_of(self.digests[name], f"{view}/{may_mirror or not self.mirrors}")
