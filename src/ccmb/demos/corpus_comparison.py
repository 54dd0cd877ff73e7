"""Does filtering pay? A comparison of a filtered corpus with raw pairs.

The same small network is trained on a corpus of the simulated web, and on as many raw pairs of its log and pages. Both
are measured on drawn images that neither has seen.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ccmb.core.files import atomic_write, read_json, read_json_lines, write_json
from ccmb.corpus.analysis.reader import indexed_images
from ccmb.corpus.assembly.write_shards import SHARDS
from ccmb.data.images.source import ImageSource
from ccmb.report.markup import both, paragraph, percent, section, table

GALLERY, SIDE, STEPS = 400, 80, 250
KINDS = {"corpus": ("过滤后的语料", "the filtered corpus"), "raw": ("未过滤的图文对", "raw pairs")}
# Only the towers: the question is what the pairs teach them, and the towers answer it in minutes.
OVERRIDES = (
    "data.fields=[texts]", "data.field_starts=", "data.group_start=0", "data.num_workers=0", "model.cross_layers=0",
    "objectives.fgr=off", "objectives.mlm=off", "objectives.tgd=off", "objectives.fgd=off",
    "training.tensorboard=false", "training.checkpoint_every=10000",
)  # fmt: skip

Texts = Mapping[str, list[str]]


def compare_corpora(web: Path, corpus: Path, out: Path, steps: int = STEPS) -> dict[str, Any]:
    """Train and measure on both, in `out/comparison`; finished parts are not repeated.

    Args:
        web: the folder of `ccmb.corpus.simulation.logs.simulate`.
        corpus: the corpus that was built from it.
    """
    folder = out / "comparison"
    held_out = folder / "held-out"
    _draw_held_out(held_out)
    filtered = {
        image.row["url"]: [text for texts in image.texts.values() for text in texts] for image in indexed_images(corpus)
    }
    count = sum(map(len, filtered.values()))
    data = {"corpus": filtered, "raw": draw_raw_pairs(web, count, random.Random(0))}
    images = {"corpus": _images_of_corpus(corpus), "raw": _images_of_web(web, data["raw"])}
    report: dict[str, Any] = {"pairs": count, "gallery": GALLERY, "steps": steps, "results": {}}
    for kind in KINDS:
        done = folder / f"{kind}.json"
        if not done.exists():
            write_pairs(folder / kind, data[kind], images[kind])
            write_json(done, _train_and_measure(folder, kind, held_out, steps))
        report["results"][kind] = {"pictures": len(data[kind]), **read_json(done)}
    return report


def draw_raw_pairs(web: Path, count: int, rng: random.Random) -> dict[str, list[str]]:
    """Sample `count` raw pairs: the texts of each image, by the image's URL.

    An image's texts are the queries that it was shown for, and the titles and contents of the pages with it. Images
    that cannot be fetched are left out. Nothing else is filtered, and a text on two pages counts twice.
    """
    from pyarrow import parquet

    log = parquet.read_table(web / "impressions", columns=["image_url", "query"])
    impressions = log.group_by(["image_url", "query"]).aggregate([]).to_pylist()
    pairs = [(row["image_url"], row["query"]) for row in impressions]
    for _, page in read_json_lines(web / "pages.jsonl"):
        pairs += [(page["ImageUrl"], page[name]) for name in ("Title", "Content") if page[name].strip()]
    available = [pair for pair in pairs if (web / "pictures" / pair[0].rpartition("/")[2]).exists()]
    texts_by_url: dict[str, list[str]] = {}
    for url, text in sorted(rng.sample(sorted(available), min(count, len(available)))):
        texts_by_url.setdefault(url, []).append(text)
    return texts_by_url


def write_pairs(folder: Path, texts: Texts, images: Iterable[tuple[str, bytes]]) -> None:
    """Write custom pairs: `pairs.jsonl` beside `images.tar`."""
    with atomic_write(folder / "images.tar", "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for url, data in images:
            member = tarfile.TarInfo(_name(url))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with atomic_write(folder / "pairs.jsonl") as file:
        for url, image_texts in texts.items():
            file.write(json.dumps({"image": _name(url), "texts": image_texts}, ensure_ascii=False) + "\n")


def comparison_section(comparison: Mapping[str, Any]) -> str:
    rows = []
    for kind, label in KINDS.items():
        result = comparison["results"][kind]
        forward, back = (result[direction] for direction in ("text_to_image", "image_to_text"))
        recalls = [percent(direction_recalls[f"R@{k}"]) for direction_recalls in (forward, back) for k in (1, 5, 10)]
        rows.append((both(*label), f"{result['pictures']:,}", *recalls, percent(result["mean_recall"])))
    directions = [f"{both(zh, en)} R@{k}" for zh, en in (("文搜图", "text"), ("图搜文", "image")) for k in (1, 5, 10)]
    head = (both("预训练用", "Pre-trained on"), both("图片", "Pictures"), *directions, both("平均召回", "Mean recall"))
    note = paragraph(
        f"同样的网络、同样 {comparison['steps']:,} 步、同样 {comparison['pairs']:,} 个图文对；"
        f"在 {comparison['gallery']:,} 张从未见过的绘制图片上零样本检索，仅双塔。单次运行。",
        f"The same network, {comparison['steps']:,} steps and {comparison['pairs']:,} pairs; zero-shot retrieval among "
        f"{comparison['gallery']:,} drawn images that neither has seen, by the towers alone. One run each.",
        "note",
    )
    return section("过滤是否值得", "Does filtering pay?", table(head, rows, "figures") + note)


def _draw_held_out(folder: Path) -> None:
    from ccmb.scenes.corpus import write_scene_corpus

    write_scene_corpus(folder, 1, GALLERY, 1, SIDE, seed=1)


def _train_and_measure(folder: Path, kind: str, held_out: Path, steps: int) -> dict[str, Any]:
    from ccmb.core.config.recipe_files import find_recipe, load_recipe
    from ccmb.inference.models.r2d2 import R2D2Stages
    from ccmb.r2d2.loading import load_model
    from ccmb.tasks.pretraining.recipe import PretrainRecipe
    from ccmb.tasks.pretraining.run import pretrain
    from ccmb.tasks.retrieval.evaluate import evaluate, open_data

    overrides = [f"data.folder={(folder / kind).resolve()}", f"training.steps={steps}", *OVERRIDES]
    pretrain(load_recipe(PretrainRecipe, find_recipe("quickstart"), overrides), folder / f"run-{kind}")
    model, processor = load_model(folder / f"run-{kind}")
    pairs, images = held_out / "pairs.jsonl", held_out / "images.tar"
    measured = evaluate(
        R2D2Stages(model, processor), open_data(pairs, images, "test", ["captions"]), 1, texts_per_image=1
    )
    retrieval = measured.report["retrieval"]
    recalls = {name: retrieval[name]["pre_ranking"] for name in ("text_to_image", "image_to_text")}
    return {**recalls, "mean_recall": retrieval["mean_recall"]["pre_ranking"]}


def _images_of_corpus(corpus: Path) -> Iterable[tuple[str, bytes]]:
    for shard, images in itertools.groupby(indexed_images(corpus), lambda image: image.row["shard"]):
        tar = ImageSource.open(corpus / SHARDS / shard)
        for image in images:
            yield image.row["url"], tar.raw(f"{image.row['sample']}.jpg")


def _images_of_web(web: Path, texts: Texts) -> Iterable[tuple[str, bytes]]:
    for url in texts:
        yield url, (web / "pictures" / _name(url)).read_bytes()


def _name(url: str) -> str:
    return url.rpartition("/")[2]
