"""`ccmb corpus demo`: a corpus of the simulated web from end to end, and the recall of its filters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccmb.core.aligning import aligned
from ccmb.core.config.recipe_files import load_recipe
from ccmb.core.errors import CcmbError
from ccmb.core.files import read_json, write_json
from ccmb.core.json_values import json_values
from ccmb.corpus.analysis.page import write_corpus_page
from ccmb.corpus.analysis.statistics import statistics
from ccmb.corpus.assembly.build import build_corpus
from ccmb.corpus.assembly.recipe import ZeroRecipe, find_corpus_recipe
from ccmb.corpus.inputs.tables import Inputs
from ccmb.corpus.simulation.ground_truth import FilterRecall, recall_of_filters
from ccmb.corpus.simulation.logs import simulate
from ccmb.corpus.simulation.pages import SimulatedWeb
from ccmb.corpus.simulation.server import Faults, serve
from ccmb.report.markup import both, paragraph, percent, section, table

# The server's faults beside the dead links of the simulated web.
FAULTS = Faults(
    error_once=0.05, busy_once=0.005, redirect=0.05, redirect_private=0.01, reset=0.01, html=0.02, damaged=0.02,
    cut_off=0.01, opted_out=0.02,
)  # fmt: skip
# The server has one host and one name, and drawn scenes are alike by design (`ccmb.data.images.near_duplicates`).
OVERRIDES = (
    "download.network.allow_private=[127.0.0.1]", "download.network.connections_per_host=32",
    "download.network.host_delay=0", "download.network.backoff=0.1", "download.network.retries=2",
    "image_dedup.max_hamming_distance=6", "image_dedup.max_color_difference=12", "shards.samples_per_shard=500",
)  # fmt: skip
IMPRESSIONS_OF_A_IMAGE, REPOSTS, SHOWN = 600, 0.3, 24
LABELS = {
    "wrong_pairs": ("错误的图文对", "wrong pairs"),
    "spam": ("垃圾文本", "spam texts"),
    "exact_texts": ("完全重复的文本", "exact duplicates of texts"),
    "near_texts": ("近似重复的文本", "near duplicates of texts"),
    "exact_pictures": ("完全相同的图片", "exact copies of images"),
    "near_pictures": ("近似的图片", "near copies of images"),
    "good_pairs_lost": ("丢失的好图文对", "good pairs lost"),
}


def run_demo(out: Path, images: int, compare: bool) -> dict[str, Any]:
    """Simulate, build and measure in the folder `out`; the report is also in `report.json` and `stats.html`.

    Running it again continues a stopped demo. The web's links contain the port of the server of the first run, so later
    runs use the same port.

    Raises:
        CcmbError: the folder holds a demo of another size.
    """
    web = out / "web"
    with serve(web, FAULTS, port=_port(out)) as base:
        write_json(out / "server.json", {"base": base})
        if not (web / "truth.json").exists():
            simulate(web, web_of(images, base))
        elif (before := read_json(web / "truth.json")["web"]["pictures"]) != images:
            raise CcmbError(f"{out}: holds a demo of {before} images; choose another --out or remove the folder")
        recipe = load_recipe(ZeroRecipe, find_corpus_recipe("zero"), OVERRIDES)
        inputs = Inputs(impressions=[str(web / "impressions")], pages=[str(web / "pages.jsonl")])
        build_corpus(inputs, recipe, out / "corpus")
    recalls = recall_of_filters(web, out / "corpus")
    report: dict[str, Any] = {
        "planted": [
            json_values(recall, total="planted") | {"share": recall.share, "target": recall.target}
            for recall in recalls
        ]
    }
    if compare:
        from ccmb.demos.corpus_comparison import compare_corpora, comparison_section

        report["comparison"] = compare_corpora(web, out / "corpus", out)
    further = [ground_truth_section(recalls)] + ([comparison_section(report["comparison"])] if compare else [])
    metrics = statistics(out / "corpus")
    write_corpus_page(out / "corpus", metrics, out / "stats.html", SHOWN, further)
    report["corpus"] = {name: metrics[name] for name in ("pictures", "pairs", "pairs_by_field", "statuses")}
    write_json(out / "report.json", report)
    return report


def web_of(images: int, base: str) -> SimulatedWeb:
    """The settings of a simulated web with `images` images, each of which is shown often."""
    return SimulatedWeb(
        images=images, impressions=images * IMPRESSIONS_OF_A_IMAGE, reposts=REPOSTS, base_url=base.rstrip("/")
    )


def ground_truth_section(recalls: Sequence[FilterRecall]) -> str:
    rows = []
    for recall in recalls:
        relation = "≤" if recall.kind == "good_pairs_lost" else "≥"
        mark = "good" if recall.reached else "bad"
        share = f'<span class="{mark}">{percent(100 * recall.share)} %</span>'
        rows.append(
            (
                both(*LABELS[recall.kind]),
                f"{recall.total:,}",
                f"{recall.removed:,}",
                share,
                f"{relation} {100 * recall.target:.0f} %",
            )
        )
    head = (
        both("种类", "Kind"),
        both("埋入", "Planted"),
        both("去掉", "Removed"),
        both("比例", "Share"),
        both("目标", "Target"),
    )
    note = paragraph(
        "只计取到的图片。这是模拟的网络，真相已知：数字说明各步是否有效，不代表真实日志。",
        "Of images that came. The web is simulated and its truth known: the metrics say that the steps work, and "
        "nothing of real logs.",
        "note",
    )
    return section("埋入的真相", "What was planted", table(head, rows, "figures") + note)


def closing_words(out: Path, report: dict[str, Any]) -> str:
    rows = [["", "planted", "removed", "share", "   target"]]
    for recall in report["planted"]:
        relation = "<=" if recall["kind"] == "good_pairs_lost" else ">="
        metrics = [
            f"{recall['planted']:,}",
            f"{recall['removed']:,}",
            f"{100 * recall['share']:.1f} %",
        ]
        rows.append([LABELS[recall["kind"]][1], *metrics, f"   {relation} {100 * recall['target']:.0f} %"])
    lines = aligned(rows, (28, 9, 9, 9))
    for kind, result in report.get("comparison", {}).get("results", {}).items():
        lines.append(f"mean recall after pre-training on {kind}: {result['mean_recall']:.1f} %")
    corpus = report["corpus"]
    counts = f"{corpus['pictures']:,} images, {corpus['pairs']:,} pairs"
    lines.append(f"{out / 'corpus'}: {counts}; page: {out / 'stats.html'}")
    return "\n".join(lines)


def _port(out: Path) -> int:
    """The port of the first run, or 0 for any."""
    path = out / "server.json"
    return int(read_json(path)["base"].rstrip("/").rpartition(":")[2]) if path.exists() else 0
