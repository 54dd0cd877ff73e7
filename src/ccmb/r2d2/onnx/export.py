"""Exporting a model into a folder of ONNX graphs."""

from __future__ import annotations

from pathlib import Path

from ccmb.core.choices import ExportPrecision
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import atomic_files, sole_use
from ccmb.core.hashing import sha256_of_file
from ccmb.core.progress import progress
from ccmb.data.seen_images import read_seen
from ccmb.r2d2.folders.export_manifest import ExportRecord, is_export, needs_runtime
from ccmb.r2d2.folders.weight_sources import carried_on, public_name
from ccmb.r2d2.loading import load_model, model_folder, weights_fingerprint
from ccmb.r2d2.onnx.graphs import graphs, write_graph

FAST = "fast"  # the export inside the model folder that it was made of
LOCK = ".lock"  # the only file that an unfinished export leaves


def export_model(name: str | Path, out: Path, precision: ExportPrecision = "int8") -> ExportRecord:
    """Write the graphs of a run folder, model folder or hub id, with its configuration and processor, into `out`.

    An existing export in `out` is replaced.

    Raises:
        UsageError: ONNX Runtime is not installed, the model is itself an export, or `out` holds something else.
        CcmbError: the model is missing or damaged, a part cannot be exported, or another process is writing there.
    """
    needs_runtime()
    folder = model_folder(name)
    if is_export(folder):
        raise UsageError(f"{name}: an export itself; give the model that it was made of")
    if out.exists() and not is_export(out) and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
        raise UsageError(f"{out}: exists and is no export; name a new folder")
    network, processor = load_model(folder)
    with sole_use(out, "is exporting into it"), atomic_files(out) as fresh:
        parts, files = graphs(network.config), {}
        with progress("export", len(parts), "parts") as advance:
            for graph in parts:
                write_graph(network, graph, fresh / graph.file, precision)
                files[graph.file] = sha256_of_file(fresh / graph.file)
                advance(1, graph.name)
        network.config.sources = carried_on(network.config.sources, name)
        network.config.save_pretrained(fresh)
        processor.save_pretrained(fresh)
        record = ExportRecord(
            source=public_name(name), fingerprint=weights_fingerprint(folder), precision=precision,
            temperature=float(network.temperature.detach()), files=files,
        )  # fmt: skip
        record.write(fresh)
        if (seen := read_seen(folder)) is not None:  # the record of seen images goes with the model
            seen.write(fresh)
    return record


def fast_export(name: str | Path) -> Path:
    """The int8 export beside a model's weights, made at its first use and again whenever the weights have changed.

    Raises:
        UsageError, CcmbError: see `export_model`.
    """
    folder = model_folder(name)
    if is_export(folder):
        if (precision := ExportRecord.read(folder).precision) != "int8":
            raise UsageError(f"--fast is int8, and {folder} is an export in {precision}; leave it out")
        return folder
    out = folder / FAST
    try:
        if ExportRecord.read(out).fingerprint == weights_fingerprint(folder):
            return out
    except CcmbError:
        pass  # there is none, or nothing whole
    export_model(folder, out)
    return out
