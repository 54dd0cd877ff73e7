"""`ccmb export`: a model as graphs for a fast CPU, with what they gain and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ccmb.cli.common.given import given, need_second_stage, refuse_given
from ccmb.cli.common.options import ImagesOption, ModelOption, RerankKOption, TextFieldOption, say_unreadable
from ccmb.cli.common.tables import export_table
from ccmb.core.choices import ExportPrecision

OF_DATA = ("images", "split", "text_field", "depth", "limit_texts")


def export(
    context: typer.Context,
    model: ModelOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="The export folder.")],
    precision: Annotated[
        ExportPrecision, typer.Option(help="Of the products with weights; fp32 gives the numbers of torch.")
    ] = "int8",
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Pairs to measure recalls on, before and after.")
    ] = None,
    images: ImagesOption = None,
    split: Annotated[str, typer.Option(help="Which split of the pairs.")] = "val",
    text_field: TextFieldOption = None,
    depth: RerankKOption = 64,
    limit_texts: Annotated[int | None, typer.Option(min=1, help="Use only the first N texts of each image.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON to this file.")] = None,
) -> None:
    """Write a model's towers and cross encoders as ONNX graphs; search, evaluation and the server take them as a model.

    What is measured, speed and recalls, is kept in the folder's export.json.

    Example: ccmb export --model quickstart/run --out int8 --data quickstart/corpus/pairs.jsonl --text-field captions
    """
    from ccmb.core.files import write_json
    from ccmb.inference.models.open_model import may_rank
    from ccmb.r2d2.loading import load_model
    from ccmb.r2d2.onnx.export import export_model
    from ccmb.r2d2.onnx.runtime import load_exported
    from ccmb.tasks.export.compare import compare_recall, compare_speed
    from ccmb.tasks.retrieval.family import folder_for_pairs

    if data is None:
        refuse_given(context, "of --data", *OF_DATA, instead="give that, or leave {} out")
    image_path = None if data is None else images or folder_for_pairs(data)
    if given(context, "depth"):
        need_second_stage(context, may_rank(model), model, "depth")
    record = export_model(model, out, precision)
    (network, processor), (exported, _) = load_model(model), load_exported(out)
    report: dict[str, Any] = {"speed": compare_speed(network, exported)}
    if data is not None and image_path is not None:
        how: dict[str, Any] = {"split": split, "fields": text_field or ["texts"], "depth": depth}
        how["texts_per_image"] = limit_texts
        report["recall"] = compare_recall(network, exported, processor, data, image_path, **how)
        say_unreadable(report["recall"].pop("unreadable"))
    record.measured = report
    record.write(out)
    if json_file:
        write_json(json_file, report)
    typer.echo(f"{out}: {precision}, {sum(file.stat().st_size for file in out.glob('*.onnx')) / 1e6:.0f} MB")
    typer.echo(export_table(report))
