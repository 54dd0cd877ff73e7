"""The columns of a transfer matrix: languages that are tested, and languages as machine translations of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ccmb.core.errors import UsageError
from ccmb.data.languages import parse_languages, tag_of

INTO = ">"


@dataclass(frozen=True, slots=True)
class Column:
    """What a model is tested on.

    Attributes:
        language: of the texts as they were written.
        fields: that hold the texts that are searched by.
        into: the language that these were translated into by machine; None: they are as they were written.
    """

    language: str
    fields: tuple[str, ...]
    into: str | None = None

    @property
    def name(self) -> str:
        return self.language if self.into is None else f"{self.language}{INTO}{self.into}"


def columns(languages: str, translated: Sequence[str] = ()) -> list[Column]:
    """Read `zh=mt_baidu,en`, and translate-test baselines such as `en>zh=mt_baidu`.

    Raises:
        UsageError: see `parse_languages`; or a translation has no field, or is of a language that is not tested.
    """
    tested = parse_languages(languages)
    read = [Column(tag, fields) for tag, fields in tested.items()]
    for text in translated:
        pair, equals, fields = text.partition("=")
        source, arrow, target = pair.partition(INTO)
        if not (equals and arrow and all(fields.split("+"))):
            raise UsageError(f"--translated {text}: write LANGUAGE{INTO}LANGUAGE=FIELD, such as en{INTO}zh=mt_baidu")
        column = Column(tag_of(source), tuple(fields.split("+")), tag_of(target))
        if column.language not in tested:
            raise UsageError(f"--translated {text}: {column.language} is not among the languages that are tested")
        read.append(column)
    return read
