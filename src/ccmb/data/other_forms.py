"""Forms of data that are not read, by name and with what to do instead."""

from __future__ import annotations

from pathlib import Path

from ccmb.core.errors import CcmbError

_DEPTHS = ("", "*/", "*/*/", "*/*/*/")


def refuse_other_forms(folder: str | Path) -> None:
    """Call where nothing of a known form is in a folder.

    Raises:
        CcmbError: it holds data of a form that is known by sight only; the message says which and what to do.
    """
    folder = Path(folder)
    for depth in _DEPTHS:
        try:
            if databases := sorted(folder.glob(f"{depth}data.mdb")):
                raise CcmbError(
                    f"{databases[0].parent}: an LMDB, as Chinese-CLIP packs its data, which is not read here. Give the "
                    "folder of the files it was made of, such as train_imgs.tsv and train_texts.jsonl, as a set of its "
                    "name (muge=FOLDER, data.dataset=muge), or own pairs (pairs.jsonl beside images)"
                )
        except OSError:
            return
