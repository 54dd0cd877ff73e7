"""`ccmb transfer`: models by languages, measured once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ccmb.core.choices import Convention
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_write, read_json, write_json
from ccmb.core.hashing import sha256_of_json
from ccmb.inference.models.open_model import label_and_source, open_model
from ccmb.tasks.common.datasets import name_and_path
from ccmb.tasks.retrieval.columns import Column
from ccmb.tasks.retrieval.language_report import of_language
from ccmb.tasks.retrieval.languages import LanguageSet, measure_columns, open_languages
from ccmb.tasks.transfer.matrix import matrix
from ccmb.tasks.transfer.page import transfer_page
from ccmb.tasks.transfer.table import transfer_markdown
from ccmb.tasks.transfer.trained_on import TrainedOn, trained_on

PROTOCOL = 1  # raised when equal settings no longer give equal metrics
KEPT = "measured"  # folder of what was measured, a file for each model and column
DEPTH = 128

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What to measure.

    Attributes:
        models: names, each maybe with `LABEL=` in front.
        depth: candidates that the second stage ranks; None: as many as each model asks for, else DEPTH.
        ranked: whether second stages rank at all.
        stated: languages that a model was trained on, by label, where its run does not say.
    """

    models: Sequence[str]
    data: str
    images: Path | None
    columns: Sequence[Column]
    out: Path
    split: str = "test"
    depth: int | None = None
    ranked: bool = True
    convention: Convention = "equal_texts"
    stated: dict[str, str] = field(default_factory=dict)


def transfer(wanted: Transfer) -> Values:
    """Measure every model in every language, and write transfer.json, .md and .html.

    A model's metrics in a language are kept as they are found, and not computed again for equal weights and data.

    Raises:
        UsageError: two models have one label, or a label of `stated` is no model's.
        CcmbError: a model or the data is not there, or faulty.
    """
    labels = [label_and_source(name)[0] for name in wanted.models]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UsageError(f"two models are called {twice[0]}; name one LABEL=MODEL")
    if unknown := [label for label in wanted.stated if label not in labels]:
        raise UsageError(f"--trained-on {unknown[0]}: no model is called so; they are: {', '.join(labels)}")
    data = open_languages(wanted.data, wanted.split, wanted.columns, wanted.images)
    rows: list[tuple[str, TrainedOn, Values]] = []
    for name, label in zip(wanted.models, labels, strict=True):
        trained = trained_on(label_and_source(name)[1], wanted.stated.get(label))
        rows.append((label, trained, _measured(name, label, data, wanted)))
    first = rows[0][2]
    report = {
        "data": name_and_path(wanted.data, "--data")[0],
        "split": wanted.split,
        "convention": wanted.convention,
        "columns": {
            column.name: {
                "language": column.language,
                "fields": list(column.fields),
                "translated_into": column.into,
                "images": first[column.name]["images"],
                "texts": first[column.name]["texts"],
            }
            for column in wanted.columns
        },
        "models": matrix(wanted.columns, rows),
        "unreadable": data.unreadable,
    }
    write_json(wanted.out / "transfer.json", report)
    for form, text in (("md", transfer_markdown(report)), ("html", transfer_page(report))):
        with atomic_write(wanted.out / f"transfer.{form}") as file:
            file.write(text)
    return report


def _measured(name: str, label: str, data: LanguageSet, wanted: Transfer) -> Values:
    """A model's metrics by column, those that were kept as they were."""
    model = open_model(name)
    depth = 0 if not wanted.ranked or not model.can_rank else wanted.depth or model.rerank_k or DEPTH
    names = [sample.image for sample in data.samples]
    paths = {}
    for column in wanted.columns:
        settings = {
            "protocol": PROTOCOL,
            "model": model.fingerprint,
            "texts": list(zip(names, data.texts(column), strict=True)),
            "depth": depth,
            "convention": wanted.convention,
        }
        paths[column.name] = wanted.out / KEPT / f"{sha256_of_json(settings)[:32]}.json"
    known = {column: _read(path) for column, path in paths.items()}
    missing = [column for column in wanted.columns if known[column.name] is None]
    if missing:
        for column, measured in measure_columns(model, data, depth, wanted.convention, missing):
            known[column.name] = of_language(measured)
            write_json(paths[column.name], {"model": label, "column": column.name, "metrics": known[column.name]})
    return known


def _read(path: Path) -> Values | None:
    """What was kept; nothing where the file is none of ours."""
    try:
        kept = read_json(path)["metrics"] if path.exists() else None
    except (CcmbError, KeyError, TypeError):
        return None
    return kept if isinstance(kept, dict) else None
