"""Inference on a CPU: images, texts and pairs per second of a network in torch and of its exports, and their recalls.

Speed is of a network of a preset's shape with random weights, which changes no work. Pairs are of a text with 32
images, as a search ranks them. Recalls are of a trained model, where one is given; of random weights int8 tells
nothing, since the outliers that it cuts come with training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ccmb.core.choices import ExportPrecision
from ccmb.core.device import inference, native_bf16
from ccmb.inference.interface import TwoStageModel, load_network
from ccmb.inference.scoring import in_bf16
from ccmb.r2d2.folders.export_manifest import ExportRecord, is_export
from ccmb.r2d2.loading import load_model, model_folder, weights_fingerprint
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.onnx.export import export_model
from ccmb.tasks.export.compare import compare_recall, workloads
from evaluate_retrieval import recall_options, save_random
from paired import Contestant, claim, median_ratio, take_turns, write_report
from step_shapes import shape_config

FASTER = {"image tower": 3.0, "text tower": 2.0, "text-image encoder": 2.0, "both cross encoders": 2.0}
CLOSE, LOSS = 1e-4, -0.5


def speed(options: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Items per second of every part, in torch and exported, and how far an fp32 export's numbers are from torch's."""
    torch.manual_seed(0)
    model = R2D2Model(shape_config(options.shape)).eval()
    save_random(model, folder / "model")  # the same weights each time
    networks: dict[str, TwoStageModel] = {"torch, fp32": model}
    if options.bf16 or native_bf16(model.device):
        networks["torch, bf16"] = in_bf16(model)
    for precision in ("fp32", "int8"):
        _export(folder / "model", folder / precision, precision)
        networks[f"export, {precision}"] = load_network(folder / precision)[0]
    claims: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    for work in workloads(model, options.images, options.texts, options.depth):
        outputs: dict[str, Any] = {}

        def contestant(
            name: str, network: TwoStageModel, run: Any = work.run, outputs: dict[str, Any] = outputs
        ) -> Contestant:
            def once(_: int) -> None:
                with inference(network), torch.autocast("cpu", torch.bfloat16, enabled="bf16" in name):
                    outputs[name] = run(network)

            return Contestant(name, once)

        contestants = [contestant(name, network) for name, network in networks.items()]
        clock = time.process_time if options.cpu_seconds else time.perf_counter
        take_turns(contestants, options.repeats, torch.device("cpu"), clock=clock)
        lines: list[dict[str, Any]] = []
        for one in contestants:
            ratio, low, high = median_ratio(contestants[0], one)
            lines.append({"name": one.name, f"{work.unit}_per_second": work.count / one.median, "ratio": ratio})
            lines[-1] |= {"interval": [low, high], "seconds": one.seconds}
            print(
                f"{work.name}, {one.name}: {work.count / one.median:.3g} {work.unit}/s, {ratio:.2f} times", flush=True
            )
        results[work.name] = lines
        away = float((_numbers(outputs["export, fp32"]) - _numbers(outputs["torch, fp32"])).abs().max())
        claims.append(
            claim(f"{work.name}: numbers of torch and of the fp32 export, greatest difference", away, CLOSE, "")
        )
        best = max(lines, key=lambda line: line["ratio"])
        claims.append(claim(f"{work.name}: int8 over torch, fp32", lines[-1]["ratio"], FASTER[work.name], "x"))
        results[f"best for {work.name}"] = best["name"]
    return claims, results


def _export(model: str | Path, out: Path, precision: ExportPrecision) -> None:
    if not is_export(out) or ExportRecord.read(out).fingerprint != weights_fingerprint(model_folder(model)):
        export_model(model, out, precision)


def _numbers(output: Any) -> torch.Tensor:
    """Embeddings of a tower, or match scores."""
    return output.embed if hasattr(output, "embed") else output.score


def recalls(options: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Recalls of a trained model and of its int8 export; those of an fp32 export are the model's."""
    model, processor = load_model(options.model)
    _export(options.model, folder / "trained-int8", "int8")
    results = compare_recall(
        model, load_network(folder / "trained-int8")[0], processor, options.data, options.data.parent / "images.tar",
        options.split, [options.text_field], options.recall_depth, options.limit_texts,
    )  # fmt: skip
    del results["data"]
    claims = [
        claim(
            f"mean recall of {stage.replace('_', '-')}, int8 less torch", row["mean_recall"]["points"], LOSS, "points"
        )
        for stage, row in results["difference"].items()
    ]
    return claims, results


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="base", help="a preset's, for speed; none leaves speed out")
    parser.add_argument("--images", "--pictures", type=int, default=8, help="that the image tower takes at a time")
    parser.add_argument("--texts", type=int, default=32, help="that the text tower takes at a time")
    parser.add_argument("--depth", type=int, default=32, help="images that a text is ranked with")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are timed")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--cpu-seconds", action="store_true", help="of the process, for busy machines, with one thread")
    parser.add_argument("--folder", type=Path, help="where networks and exports are kept from run to run")
    parser.add_argument("--bf16", action="store_true", help="time torch's bf16 though the processor has none")
    recall_options(parser)
    parser.add_argument("--json", type=Path, help="file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    parts = ({"speed": speed} if options.shape != "none" else {}) | ({"recalls": recalls} if options.model else {})
    claims: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            new_claims, results[name] = part(options, options.folder or Path(folder))
            claims += new_claims
    asked = {name: getattr(options, name) for name in ("shape", "images", "texts", "depth", "cpu_seconds")}
    results |= {"instructions": instructions(), "options": asked}
    write_report(options.json, claims, results, torch.device("cpu"))
    return {"claims": claims, "results": results}


def instructions() -> list[str]:
    """What the processor has that int8 and bf16 are fast with."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    wanted = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "avx_vnni")
    return [name for name in wanted if capabilities.get(name)]


if __name__ == "__main__":
    main()
