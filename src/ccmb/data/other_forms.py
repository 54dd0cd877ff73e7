"""Forms of data that cannot be read: they are refused by name, with what to do instead."""

from __future__ import annotations

from pathlib import Path

from ccmb.core.errors import CcmbError

_DEPTHS = ("", "*/", "*/*/", "*/*/*/")


def refuse_other_forms(folder: str | Path) -> None:
    """Refuse a folder that holds data of a form that is recognised but not read. Call it when nothing else was found.

    Raises:
        CcmbError: there is such data; the message says which form it is and what to do.
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
