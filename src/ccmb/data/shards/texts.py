"""The text files of a sample in a shard: our JSON, or the `.txt` and the `.json` that img2dataset writes.

    KEY.json    ours: {"image": name, "<field>": [text, ...], "group": .., "label": ..}
    KEY.txt     a caption, or one a line; a JSON without "image" beside it is only a note about the download

The texts of a `.txt` form the field "txt" and, unless the JSON has text fields, also the field "texts".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ccmb.core.errors import CcmbError, one_line
from ccmb.core.text.files import decode_text
from ccmb.data.pairs import sample_of_line
from ccmb.data.sample import Sample

CAPTION_ENDINGS = (".txt", ".text", ".caption")
# Keys by which img2dataset's JSON is known; in it only "caption" is a text for the image.
_NOTED = {"url", "status", "error_message", "original_width"}


def sample_of_texts(
    note: bytes | None, caption: bytes | None, image: str, fields: Sequence[str] | None, where: str
) -> Sample:
    """The sample with the texts of the named fields (None: of all fields that are texts for the image).

    Args:
        note: the JSON's bytes, or None.
        caption: the bytes of the `.txt`, or None.
        image: the image's name if the JSON gives none.
        where: shard and key, for messages.

    Raises:
        CcmbError: one of the files is faulty, or none of the fields is there.
    """
    line = {} if note is None else _object(note, where)
    noted = "image" not in line and (caption is not None or bool(_NOTED & line.keys()))
    if caption is not None:
        texts = _texts(caption, line.get("caption"), where)
        line.setdefault("txt", texts)
        if "image" not in line or fields is None or not any(name in line for name in fields):
            line.setdefault("texts", texts)
    if noted and fields is None:
        fields = ("texts",) if caption is not None else ("caption",)
    if noted:
        line = {key: value for key, value in line.items() if key not in ("split", "group", "twin")}
    line.setdefault("image", image)
    if fields is None and caption is not None:
        line.pop("txt")  # the same as "texts", or beside fields of the JSON's own
    return sample_of_line(line, fields, where)


def _object(note: bytes, where: str) -> dict[str, Any]:
    try:
        line = json.loads(decode_text(note, f"{where}.json"))
    except (ValueError, RecursionError) as error:
        raise CcmbError(f"{where}.json: not valid JSON ({one_line(error)})") from None
    if not isinstance(line, dict):
        raise CcmbError(f"{where}.json: expected a JSON object")
    return line


def _texts(caption: bytes, noted: object, where: str) -> list[str]:
    """One text a line, or the whole file as one text if the JSON's caption is the same."""
    text = decode_text(caption, f"{where}.txt")
    if isinstance(noted, str) and noted.strip() == text.strip():
        texts = [" ".join(text.split("\n"))]
    else:
        texts = text.split("\n")
    if not (texts := [line.strip() for line in texts if line.strip()]):
        raise CcmbError(f"{where}.txt: the text is empty")
    return texts
