"""What search for many costs, from metrics of one core: what docs/search-at-scale.md rests on.

    python benchmarks/search_cost.py images=5e6 queries=50

Every input can be given anew as key=value. Measured ones come from this folder's benchmarks; assumed ones say so.
"""

from __future__ import annotations

import math

from corpus_cost import HOUR, Input, bytes_of, input_lines, read_inputs

_SPEED = "measured: docs/fast.md, base, int8, AVX2 without VNNI"
INPUTS = {
    "pictures": Input(1e6, "images", "assumed"),
    "queries": Input(10, "texts/s at the most", "assumed"),
    "depth": Input(64, "images that are ranked", "the default of search"),
    "images_per_core": Input(3.0, "images/s of a core", _SPEED),
    "texts_per_core": Input(36, "texts/s of a core", "assumed: by its share of the image tower's products"),
    "pairs_per_core": Input(4.86, "pairs/s of a core", _SPEED),
    "opened_per_core": Input(50, "images/s of a core", "assumed: JPEGs of some megapixels"),
    "states_held": Input(0.9, "share of candidates", "assumed: those whose token states were kept"),
    "embed_dim": Input(768, "numbers of a vector", "the paper"),
    "state_bytes": Input(302592, "bytes of an image's token states", "197 tokens of 768 numbers in float16"),
    "thumbnail_bytes": Input(8e3, "bytes of a thumbnail", "assumed"),
    "scan": Input(15e9, "bytes/s that a flat index reads", "assumed: memory of one socket, all cores"),
    "scanned_together": Input(8, "queries in one scan", "assumed"),
    "cores": Input(32, "cores of a machine", "assumed"),
    "used": Input(0.6, "share of the cores at the most", "assumed: above it, queries wait"),
}  # fmt: skip


def tables(inputs: dict[str, float]) -> str:
    """Inputs and what follows, as Markdown."""
    encode = 1 / inputs["images_per_core"] + 1 / inputs["opened_per_core"]
    text = 1 / inputs["texts_per_core"]
    rank = inputs["depth"] * (1 / inputs["pairs_per_core"] + (1 - inputs["states_held"]) * encode)
    vectors = inputs["pictures"] * inputs["embed_dim"] * 4
    lines = [*input_lines(inputs, INPUTS), "", "| work | core seconds | cores at the peak | machines |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for name, seconds in (("a query, pre-ranked", text), ("a query, ranked", text + rank)):
        cores = inputs["queries"] * seconds / inputs["used"]
        lines.append(f"| {name} | {seconds:,.3g} | {cores:,.1f} | {math.ceil(cores / inputs['cores']):,} |")
    hours = inputs["pictures"] * encode / HOUR
    scan = vectors / inputs["scan"]
    lines += [
        "",
        "| | |",
        "| --- | ---: |",
        f"| indexing all images | {hours:,.0f} core hours, {hours / inputs['cores']:,.1f} hours of a machine |",
        f"| vectors, in the memory of Milvus | {bytes_of(vectors)} |",
        f"| one scan of them | {scan:,.2f} s |",
        f"| queries/s that the scans allow | {inputs['scanned_together'] / scan:,.0f} |",
        f"| token states of all images | {bytes_of(inputs['pictures'] * inputs['state_bytes'])} |",
        f"| thumbnails | {bytes_of(inputs['pictures'] * inputs['thumbnail_bytes'])} |",
    ]
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    print(tables(read_inputs(INPUTS, words)))


if __name__ == "__main__":
    main()
