"""`ccmb models`: published models that every verb takes by name."""

from __future__ import annotations

from dataclasses import asdict

from ccmb.cli.common.options import JsonFlag, print_result

ENDING = (
    "R2D2's own: a run or model folder. Other names: open_clip:ARCHITECTURE/WEIGHTS, sentence_transformers:NAME, "
    "modelscope:ID, and A + B, which ranks the candidates of A by B (or --ranker B). Where huggingface.co cannot be "
    "reached, set HF_ENDPOINT to a mirror."
)


def models(as_json: JsonFlag = False) -> None:
    """List published models that are worth knowing: licence, size, languages, and what each is good for.

    Example: ccmb models
    """
    from ccmb.inference.models.known import KNOWN

    lines = []
    for known in KNOWN:
        option = "--ranker" if known.ranks else "--model"
        lines.append(f"{option} {known.name}")
        lines.append(f"    {known.good_for}")
        lines.append(f"    {known.licence}; {known.parameters} parameters; texts: {known.languages}")
        if known.fetch:
            lines.append(f"    {known.fetch}")
    print_result([asdict(known) | {"fetch": known.fetch} for known in KNOWN], as_json, "\n".join([*lines, "", ENDING]))
