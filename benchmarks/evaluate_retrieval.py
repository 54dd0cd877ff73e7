"""The second stage of retrieval against the official evaluation's way: pairs per second, scores, recalls, memory.

Speed is of a network of a preset's shape with random weights and states: neither changes the work. Recalls are of a
trained model, where one is given. Exports are made in a temporary folder. Memory is of child processes that encode and
rank galleries of two sizes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ccmb.core.device import native_bf16
from ccmb.data.images.source import ImageSource
from ccmb.data.pairs import read_pairs
from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.stages import EXACT_OPTIONS, R2D2Encoder, R2D2Ranker, RankOptions
from ccmb.inference.two_stage import ranks_both_ways, two_stage_ranks
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.tokenizer import train_tokenizer
from ccmb.r2d2.towers.two_towers import TowerOutput, l2_normalize
from ccmb.tasks.retrieval.metrics import recalls as recalls_of
from ccmb.tasks.retrieval.metrics import report_of_ranks
from gallery_memory import peak_of
from official_ranking import official_scores
from paired import Contestant, claim, median_ratio, take_turns, write_report
from step_shapes import draw_lengths, shape_config

OPTIONS = {
    "exact, fp32": EXACT_OPTIONS,
    "bf16 chooses": RankOptions("bf16"),
    "int8 chooses": RankOptions("int8"),
    "cascade, fp32": RankOptions(cascade=16),
    "cascade, bf16": RankOptions("bf16", 16),
    "cascade, int8": RankOptions("int8", 16),
}
FASTER = {"exact, fp32": 1.4} | dict.fromkeys(["bf16 chooses", "int8 chooses"], 2.5)
FASTER |= dict.fromkeys(["cascade, fp32", "cascade, bf16", "cascade, int8"], 4.0)
CLOSE, POINTS, FLAT = 1e-4, 0.1, 1.1


def random_sides(config: R2D2Config, count: int, queries: int) -> tuple[TowerOutput, TowerOutput]:
    """Images and texts of random states, the texts of real lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(draw_lengths(queries, config.max_text_tokens, 0))
    side = config.vision_config.image_size // config.vision_config.patch_size
    images = torch.randn(count, 1 + side**2, config.image_width, generator=generator)
    texts = torch.randn(queries, int(lengths.max()), config.text_config.hidden_size, generator=generator)
    of_images, of_texts = (
        l2_normalize(torch.randn(items, config.embed_dim, generator=generator)) for items in (count, queries)
    )
    mask = (torch.arange(texts.shape[1]) < lengths[:, None]).long()
    return TowerOutput(of_images, images), TowerOutput(of_texts, texts, mask)


def save_random(model: R2D2Model, folder: Path) -> None:
    """Write a network of random weights with a processor, as exports are made of."""
    model.save_pretrained(folder)
    tokenizer = train_tokenizer(["图"], vocabulary=20, max_length=model.config.max_text_tokens)
    R2D2Processor(tokenizer, model.config.image_size, model.config.max_text_tokens).save_pretrained(folder)


def ways(bf16: bool) -> dict[str, RankOptions]:
    """The ways of ranking, with bf16 where the processor computes it natively or it is asked for."""
    if bf16 or native_bf16(torch.device("cpu")):
        return OPTIONS
    return {name: rank_options for name, rank_options in OPTIONS.items() if rank_options.precision != "bf16"}


class Scored(R2D2Ranker):
    """A second stage that keeps the scores it gave last."""

    def rank_scores(self, *arguments: Any) -> torch.Tensor:
        self.scores = super().rank_scores(*arguments)
        self.image_N, self.text_N = arguments[2:4]
        return self.scores


def speed(options: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Pairs per second of each way of ranking over the official one's, and how far exact scores are from its."""
    torch.manual_seed(0)
    model = R2D2Model(shape_config(options.shape)).eval()
    save_random(model, folder)
    model.config.ranking_rule = "sum"
    depth, queries = options.depth, options.queries
    images, texts = random_sides(model.config, depth, queries)
    gallery = Gallery(images, texts, torch.arange(queries) % depth)
    exact = Scored(model)
    official: list[torch.Tensor] = []

    def run_official(_: int) -> None:
        with torch.inference_mode():
            official[:] = [official_scores(model, images, texts, True, depth, 1)]

    def contestant(name: str, rank_options: RankOptions) -> Contestant:
        ranker = exact if name == "exact, fp32" else R2D2Ranker(model, rank_options, source=folder)

        def run(_: int) -> None:
            two_stage_ranks(ranker, gallery, "text_to_image", depth)

        two_stage_ranks(ranker, Gallery(images[:1], texts[:1], torch.tensor([0])), "text_to_image", 1)  # warms up
        return Contestant(name, run)

    plain = Contestant("official", run_official)
    contestants = [contestant(name, rank_options) for name, rank_options in ways(options.bf16).items()]
    clock = time.process_time if options.cpu_seconds else time.perf_counter
    take_turns([plain, *contestants], options.repeats, torch.device("cpu"), warm_up=0, clock=clock)
    for one in (plain, *contestants):
        pairs = depth if one is plain else depth * queries
        one.seconds = [seconds / pairs for seconds in one.seconds]
    of_first = exact.text_N == 0
    difference = (exact.scores - official[0][0, exact.image_N])[of_first].abs().max()
    claims = [claim(f"{options.shape}: exact scores and official, greatest difference", float(difference), CLOSE, "")]
    lines = [{"name": plain.name, "pairs_per_second": 1 / plain.median}]
    for one in contestants:
        ratio, low, high = median_ratio(plain, one)
        claims.append(claim(f"{options.shape}: {one.name}, over official", ratio, FASTER[one.name], "x"))
        lines.append({"name": one.name, "pairs_per_second": 1 / one.median, "ratio": ratio, "interval": [low, high]})
    for line in lines:
        print(
            f"{line['name']}: {line['pairs_per_second']:.2f} pairs/s, times official {line.get('ratio', 1):.2f}",
            flush=True,
        )
    return claims, {"depth": depth, "queries": queries, "cpu_seconds": options.cpu_seconds, "lines": lines}


def recalls(options: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Recalls of a trained model by each way of ranking, and how far they are from the official ones, in points."""
    model, processor = load_model(str(options.model))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    samples = read_pairs(options.data, options.split, [options.text_field])
    images = ImageSource.open(options.data.parent / "images.tar")
    texts = [sample.texts[: options.limit_texts] for sample in samples]
    gallery = encode_gallery(R2D2Encoder(model, processor), [sample.image for sample in samples], texts, images.load)
    model.config.ranking_rule = "sum"  # the official one
    reports, claims = {"official": official_recalls(model, gallery, options.recall_depth)}, []
    for name, rank_options in ways(options.bf16).items():
        ranks = ranks_both_ways(R2D2Ranker(model, rank_options, source=folder), gallery, options.recall_depth)
        reports[name] = report_of_ranks(ranks, gallery, options.recall_depth)
        print(name, {way: reports[name][way]["ranking"] for way in ranks}, flush=True)
        away = max(
            abs(value - reports[name][way]["ranking"][at])
            for way, stages in reports["official"].items()
            for at, value in stages["ranking"].items()
        )
        target = 0.0 if rank_options == EXACT_OPTIONS else POINTS
        claims.append(claim(f"recalls of {name} and official, greatest difference", away, target, "points"))
    return claims, reports


def official_recalls(model: R2D2Model, gallery: Gallery, depth: int) -> dict[str, Any]:
    """Recalls of the official evaluation, in the form of our report."""
    assert isinstance(gallery.images, TowerOutput)
    assert isinstance(gallery.texts, TowerOutput)
    right_TG = gallery.image_of_text[:, None] == torch.arange(len(gallery.images))
    report = {}
    for way, right_QG in (("text_to_image", right_TG), ("image_to_text", right_TG.T)):
        with torch.inference_mode():
            score_QG = official_scores(model, gallery.images, gallery.texts, way == "text_to_image", depth)
        order_QG = score_QG.argsort(1, descending=True)
        place_Q = right_QG.gather(1, order_QG).byte().argmax(1)  # of the best of several right answers
        report[way] = {"ranking": recalls_of(place_Q + 1)}
    return report


def memory(options: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Peaks in MiB of encoding and of ranking two sizes of gallery, each in a process of its own."""
    peaks: dict[str, dict[int, float]] = {"encode": {}, "rank": {}}
    for count in options.galleries:
        for what, peak_by_count in peaks.items():
            peak_by_count[count] = peak_of(what, folder / f"{count}.safetensors", count)
            print(f"{what} {count} images: {peak_by_count[count]:.0f} MiB at the most", flush=True)
    small, large = min(options.galleries), max(options.galleries)
    claims = [
        claim(f"memory to {what} {large} images over {small}", peak_by_count[large] / peak_by_count[small], FLAT, "x")
        for what, peak_by_count in peaks.items()
    ]
    return claims, peaks


def recall_options(parser: argparse.ArgumentParser) -> None:
    """What recalls are measured of."""
    parser.add_argument("--model", help="a trained model, for recalls; without it they are left out")
    parser.add_argument("--data", type=Path, help="its pairs.jsonl, beside an images.tar")
    parser.add_argument("--split", default="test")
    parser.add_argument("--text-field", default="captions")
    parser.add_argument("--limit-texts", type=int, default=1)
    parser.add_argument("--recall-depth", type=int, default=64)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="base", help="a preset's, for speed")
    parser.add_argument("--depth", type=int, default=128, help="candidates of each query, for speed")
    parser.add_argument("--queries", type=int, default=2, help="that ours ranks at a time; the official way ranks one")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are timed")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--cpu-seconds", action="store_true", help="of the process, for busy machines, with one thread")
    parser.add_argument("--bf16", action="store_true", help="time bf16 though the processor has none")
    recall_options(parser)
    parser.add_argument("--galleries", type=int, nargs="*", default=[1000, 50000], help="sizes, for memory")
    parser.add_argument("--json", type=Path, help="file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    parts = {"speed": speed} | ({"recalls": recalls} if options.model else {})
    parts |= {"memory": memory} if options.galleries else {}
    if len(ways(options.bf16)) < len(OPTIONS):
        print("bf16 is left out: this processor computes it slowly; --bf16 asks for it", flush=True)
    claims, results = [], {}
    for name, part in parts.items():
        with tempfile.TemporaryDirectory() as folder:
            new_claims, results[name] = part(options, Path(folder))
        claims += new_claims
    write_report(options.json, claims, results, torch.device("cpu"))
    return {"claims": claims, "results": results}


if __name__ == "__main__":
    main()
