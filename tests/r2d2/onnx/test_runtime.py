"""An export says what the network says, in batches and lengths of any size, and is taken wherever a model is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import onnx
import pytest
import torch

from ccmb.benchmark import runner
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.registry import BENCHMARKS
from ccmb.benchmark.results.result import read_result
from ccmb.core.device import inference
from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference.gallery import encode_gallery
from ccmb.inference.interface import load_network
from ccmb.inference.models.open_model import open_model
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.inference.scoring import rank_pairs, ranking_scores
from ccmb.inference.stages import R2D2Encoder, R2D2Ranker, RankOptions
from ccmb.inference.two_stage import Candidates, candidate_scores
from ccmb.r2d2.folders.export_manifest import ExportRecord
from ccmb.r2d2.loading import load_model, weights_fingerprint
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.onnx.export import FAST, export_model, fast_export
from ccmb.r2d2.onnx.runtime import ExportedR2D2, load_exported
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.search.engine import open_engine
from ccmb.search.indexing.indexer import build_index
from ccmb.search.query import Hit, SearchQuery
from ccmb.tasks.retrieval.metrics import retrieval_report
from tests.helpers.exact import TINY_ERROR
from tests.helpers.galleries import gallery_of
from tests.helpers.runs import command_line, tiny_corpus
from tests.helpers.tiny import SIZE, TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = pytest.mark.numeric

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
STEM = {"model_type": "stem_vision", "image_size": SIZE, "patch_size": 16, "stem_channels": (4, 8, 16)}
OTHERS: dict[str, dict[str, Any]] = {
    "PRD2": {"cross_layers": 0},
    "convolutional stem, one cross layer": {"vision_config": TOWER | STEM, "cross_layers": 1},
    "without class token": {
        "vision_config": TOWER | {"model_type": "siglip_vision_model", "image_size": SIZE, "patch_size": 16}
    },
    "vit and roberta": {
        "vision_config": TOWER | {"model_type": "vit", "image_size": SIZE, "patch_size": 16},
        "text_config": TOWER | {"model_type": "roberta", "vocab_size": 200, "max_position_embeddings": 70},
        "max_text_tokens": 64,
    },
}


def save(folder: Path, **changes: Any) -> R2D2Model:
    model = tiny_model(**changes)
    with torch.no_grad():
        model.temperature.fill_(0.05)
    model.save_pretrained(folder)
    processor = tiny_processor()
    processor.max_text_tokens = model.config.max_text_tokens
    processor.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save(folder)
    return folder


@pytest.fixture(scope="module")
def exports(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    for precision in ("fp32", "int8"):
        export_model(model, folder / precision, precision)
    return {precision: folder / precision for precision in ("fp32", "int8")}


@pytest.fixture
def export(exports: dict[str, Path], tmp_path: Path) -> Path:
    """An int8 export that a test may damage."""
    return Path(shutil.copytree(exports["int8"], tmp_path / "export"))


def texts_of(count: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of texts of which the longest has so many tokens, and the others fewer."""
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(5, 50, (count, tokens), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, count):
        mask[row, max(1, tokens - 3 * row) :] = 0
    return ids * mask, mask


def assert_says_the_same(one: R2D2Model, other: ExportedR2D2) -> None:
    """Both in float32, and within what sums of another order may differ by. Log-odds are of four logits, of some five
    times the size 1, and a probability's slope is at most a quarter."""
    longest = one.config.max_text_tokens
    for count in (1, 3, 17):
        pixels = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(count))
        for tokens in (2, 5, longest):
            ids, mask = texts_of(count, tokens)
            with inference(one):
                images, texts = one.encode_image(pixels), one.encode_text(ids, mask)
                reference = other.encode_image(pixels), other.encode_text(ids, mask)
                for own, its in zip((images, texts), reference, strict=True):
                    torch.testing.assert_close(its.embed, own.embed, atol=TINY_ERROR, rtol=0)
                    real = slice(None) if own.mask is None else own.mask.bool()
                    torch.testing.assert_close(its.states[real], own.states[real], atol=TINY_ERROR, rtol=TINY_ERROR)
                if one.can_rank:  # some images in one pair, some in several, out of order
                    image_index = torch.arange(2 * count) % (count // 2 + 1)
                    text_index = torch.arange(2 * count).flip(0) % count
                    own, its = (rank_pairs(item, images, texts, image_index, text_index) for item in (one, other))
                    torch.testing.assert_close(its.head_log_odds, own.head_log_odds, atol=20 * TINY_ERROR, rtol=0)
                    scores = [ranking_scores(item, torch.zeros(2 * count), own) for item in (one, other)]
                    torch.testing.assert_close(*scores, atol=5 * TINY_ERROR, rtol=0)


def test_an_fp32_export_says_what_the_network_says(model: Path, exports: dict[str, Path]) -> None:
    exported, processor = load_exported(exports["fp32"])
    assert_says_the_same(load_model(model)[0], exported)
    assert float(exported.temperature) == pytest.approx(0.05)
    assert processor.texts(TEXTS[:2])["input_ids"].shape[0] == 2


@pytest.mark.parametrize("kind", OTHERS)
def test_so_it_does_of_other_networks(kind: str, tmp_path: Path) -> None:
    network = save(tmp_path / "model", **OTHERS[kind])
    export_model(tmp_path / "model", tmp_path / "export", "fp32")
    exported, _ = load_exported(tmp_path / "export")
    assert exported.can_rank == (kind != "PRD2")
    assert_says_the_same(network, exported)
    if kind == "PRD2":
        with pytest.raises(ValueError, match="no second stage"):
            exported.check_can_rank()


def test_int8_is_close_and_smaller(model: Path, exports: dict[str, Path]) -> None:
    (network, processor), (exported, _) = load_model(model), load_exported(exports["int8"])
    pixels, words = processor.images(tiny_images(8)), processor.texts(TEXTS)
    with inference(network):
        for own, its in (
            (network.encode_image(pixels), exported.encode_image(pixels)),
            (network.encode_text(**words), exported.encode_text(**words)),
        ):
            cosine = (own.embed * its.embed).sum(1)
            # Weights and inputs of eight bits are off by 1/254 of the largest each, whatever multiplies them, which
            # after a handful of layers one on the other is a few per cent; a cosine of 0.99 is 14 % aside.
            assert float(cosine.min()) > 0.99
            assert float((own.embed - its.embed).abs().max()) > 1e-6  # it is quantised indeed
        images, texts, pairs = network.encode_image(pixels), network.encode_text(**words), torch.arange(8)
        scores = [rank_pairs(item, images, texts, pairs, pairs.flip(0)).score for item in (network, exported)]
    torch.testing.assert_close(*scores, atol=0.1, rtol=0)  # a quarter of as much of logits of the size 3
    sizes = [(exports[item] / "image_text_encoder.onnx").stat().st_size for item in ("int8", "fp32")]
    assert sizes[0] < sizes[1]  # the larger the network, the nearer to a quarter


def test_without_a_mask_all_tokens_are_real(exports: dict[str, Path]) -> None:
    exported, _ = load_exported(exports["fp32"])
    ids, _ = texts_of(1, 7)
    alone = exported.encode_text(ids)
    assert alone.mask is None
    masked = exported.encode_text(ids, torch.ones_like(ids))
    torch.testing.assert_close(alone.embed, masked.embed, atol=TINY_ERROR, rtol=0)
    images = TowerOutput(torch.zeros(1, 16), torch.randn(1, 5, 32))
    first = torch.zeros(1, dtype=torch.long)
    assert exported.match_text_image(images, alone, first, first).shape == (1, 2)
    assert exported.match_image_text(images, alone, first, first).shape == (1, 2)


def test_evaluation_and_the_benchmark_take_it_for_a_model(model: Path, exports: dict[str, Path]) -> None:
    images = dict(enumerate(tiny_images(6)))
    reports = []
    for folder in (model, exports["fp32"]):
        network, processor = load_network(folder)
        gallery = encode_gallery(
            R2D2Encoder(network, processor), range(6), [[text] for text in TEXTS[:6]], images.__getitem__
        )
        reports.append(retrieval_report(network, gallery, 4))
    assert reports[0] == reports[1]
    models = [open_model(str(folder)) for folder in (model, exports["fp32"], exports["int8"])]
    assert len({model.fingerprint for model in models}) == 3
    assert all(model.kind == "R2D2" and model.can_rank for model in models)


def test_precision_is_not_asked_of_an_export(exports: dict[str, Path]) -> None:
    exported, _ = load_exported(exports["int8"])
    assert R2D2Ranker(exported, RankOptions("auto")).options == RankOptions("fp32")
    for asked in (RankOptions("bf16"), RankOptions("int8", 2)):
        with pytest.raises(UsageError, match="an export keeps the one that it was made with"):
            R2D2Ranker(exported, asked, source=exports["int8"])


@pytest.fixture
def with_export(model: Path, exports: dict[str, Path], tmp_path: Path) -> Path:
    """A model folder as it is after the first use of its int8 export."""
    own = Path(shutil.copytree(model, tmp_path / "own"))
    shutil.copytree(exports["int8"], own / FAST)
    return own


@pytest.mark.parametrize("cascade", [None, 2])
def test_int8_chooses_what_the_model_orders(
    cascade: int | None, with_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccmb.inference.stages.DEFAULT_KEEP", 3)
    network, _ = load_network(with_export)
    network.config.ranking_rule = "log_odds"  # other than the export's own
    gallery, depth = gallery_of(cast(R2D2Model, network)), 5
    ranker, keep = R2D2Ranker(network, RankOptions("int8", cascade), source=with_export), cascade or 3
    by_torch = R2D2Ranker(network, RankOptions(cascade=depth)).cascade if cascade else None
    result = Candidates.empty(torch.arange(len(gallery.texts)), depth)
    result.item_QK[:] = torch.arange(depth)
    result.cosine_QK[:] = torch.rand(result.cosine_QK.shape, generator=torch.Generator().manual_seed(0))
    pairs = result.item_QK.flatten(), result.query_Q.repeat_interleave(depth), result.cosine_QK.flatten()
    exact = R2D2Ranker(network).rank_scores(gallery.images, gallery.texts, *pairs)
    assert ranker.cascade is not None
    cheap = ranker.cascade.scores(gallery.images, gallery.texts, *pairs)
    wanted = by_torch.scores(gallery.images, gallery.texts, *pairs) if by_torch else exact
    assert 0 < (cheap - wanted).abs().mean() < 0.4  # of random weights; what they score varies by several
    scores_QK = candidate_scores(ranker, gallery, True, result, lambda count, note: None)
    chosen_QF = cheap.view_as(scores_QK).topk(keep).indices
    assert torch.equal(scores_QK.topk(keep).indices.sort().values, chosen_QF.sort().values)
    kept, right = (item.view_as(scores_QK).gather(1, chosen_QF) for item in (scores_QK, exact))
    torch.testing.assert_close(kept, right, atol=20 * TINY_ERROR, rtol=TINY_ERROR)


def test_the_verbs_say_that_int8_chose(
    with_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command, corpus, report = command_line(monkeypatch, capfd), tiny_corpus(tmp_path / "corpus"), tmp_path / "a.json"
    asked = ["--model", with_export, "--text-field", "captions", "--precision", "int8", "--cascade", 2]
    made = command("evaluate", *asked, "--data", corpus / "pairs.jsonl", "--json", report)
    assert (made.code, made.err) == (0, "")
    output = json.loads(report.read_text())["retrieval"]
    assert (output["precision"], output["cascade"]) == ("int8", 2)
    made = command("benchmark", *asked, "--data", f"drawn={corpus / 'pairs.jsonl'}", "--out", tmp_path / "results")
    assert made.code == 0, made.err
    [path] = (tmp_path / "results").glob("drawn.*/*.json")
    assert BENCHMARKS["retrieval"].stage_words(read_result(path), "ranking") == "ranking, top 128, int8, cascade 2"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    failed = command("evaluate", *asked, "--data", corpus / "pairs.jsonl")
    assert (failed.code, failed.err.count("\n")) == (2, 1)
    assert "needs onnxruntime; install it with pip install 'ccmb[fast]'" in failed.err


def test_exports_are_made_before_processes_share_the_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(runner, "open_model", lambda *arguments: asked.append(("open", *arguments)))
    monkeypatch.setattr(runner, "share", lambda *arguments: asked.append("share") or [])
    options = RankOptions("int8")
    runner.run_benchmark([str(model)], [], tmp_path, Settings(ranking=options), ["cpu", "cpu"])
    assert asked == [("open", str(model), None, options), "share"]


def test_int8_is_made_for_a_second_stage_on_a_cpu_alone(tmp_path: Path) -> None:
    assert R2D2Ranker(tiny_model(cross_layers=0), RankOptions("int8"), source=tmp_path / "none").cascade is None
    with pytest.raises(UsageError, match="--precision int8 is of CPUs"):
        RankOptions("int8").on(tiny_model().to("meta"))
    with pytest.raises(ValueError, match="source"):
        R2D2Ranker(tiny_model(), RankOptions("int8"))


def test_an_index_is_searched_by_the_model_or_its_export(model: Path, exports: dict[str, Path], tmp_path: Path) -> None:
    own = Path(shutil.copytree(model, tmp_path / "model"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(tiny_images(5)):
        image.save(folder / f"{index}.png")
    network, processor = load_network(own, fast=True)
    assert isinstance(network, ExportedR2D2)
    assert build_index([folder], tmp_path / "index", R2D2Stages(network, processor, source=own)).added == 5
    result = hits_of(tmp_path / "index", fast=True)
    assert [hit.name for hit in hits_of(tmp_path / "index", exports["int8"])] == [hit.name for hit in result]
    exact = {hit.name: hit.score for hit in hits_of(tmp_path / "index")}
    assert {hit.name: hit.score for hit in result} == pytest.approx(exact, abs=0.1)


def hits_of(index: Path, model: Path | None = None, fast: bool = False) -> tuple[Hit, ...]:
    with open_engine(index, model, fast) as engine:
        return engine.search(SearchQuery(TEXTS[0])).hits


def test_the_fast_export_is_made_once_and_anew_when_the_weights_change(tmp_path: Path) -> None:
    save(tmp_path, cross_layers=0)
    assert fast_export(tmp_path) == tmp_path / FAST
    made = (tmp_path / FAST / "export.json").stat().st_mtime_ns
    fast_export(tmp_path)
    assert (tmp_path / FAST / "export.json").stat().st_mtime_ns == made
    save(tmp_path, cross_layers=0, seed=1)
    fast_export(tmp_path)
    assert ExportRecord.read(tmp_path / FAST).fingerprint == weights_fingerprint(tmp_path)
    assert (tmp_path / FAST / "export.json").stat().st_mtime_ns > made
    assert not list(tmp_path.glob(".*.tmp"))


def truncate(folder: Path) -> None:
    path = folder / "text_tower.onnx"
    path.write_bytes(path.read_bytes()[:-100])


def mix(folder: Path) -> None:
    shutil.copy(folder / "image_tower.onnx", folder / "text_tower.onnx")


def point_out(folder: Path) -> None:
    path = folder / "text_tower.onnx"
    path.rename(folder.parent / "elsewhere.onnx")
    path.symlink_to(folder.parent / "elsewhere.onnx")


def rehash(folder: Path, file: str) -> None:
    """Let the record tell of the file as it is now, as a hostile export would."""
    record = json.loads((folder / "export.json").read_text())
    record["files"][file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    (folder / "export.json").write_text(json.dumps(record))


def read_outside(folder: Path) -> None:
    path = folder / "text_tower.onnx"
    graph = onnx.load(path)
    tensor = graph.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    path.write_bytes(graph.SerializeToString())
    rehash(folder, path.name)


def read_outside_within_a_node(folder: Path) -> None:
    path = folder / "text_tower.onnx"
    graph = onnx.load(path)
    hidden = onnx.TensorProto(dims=[1], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="/etc/passwd")
    body = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["c"], value=hidden)], "inner", [], [])
    graph.graph.node.append(onnx.helper.make_node("If", ["x"], [], then_branch=body, else_branch=body))
    path.write_bytes(graph.SerializeToString())
    rehash(folder, path.name)


def swap_graphs(folder: Path) -> None:
    shutil.copy(folder / "image_text_encoder.onnx", folder / "text_image_encoder.onnx")
    rehash(folder, "text_image_encoder.onnx")


def no_graph(folder: Path) -> None:
    (folder / "text_tower.onnx").write_bytes(os.urandom(1000))
    rehash(folder, "text_tower.onnx")


def other_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["embed_dim"] = 99
    (folder / "config.json").write_text(json.dumps(config))


def edit_record(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "export.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"text_tower.onnx: not the file that export.json describes"),
        (mix, r"text_tower.onnx: not the file that export.json describes"),
        (
            lambda folder: (folder / "image_text_encoder.onnx").unlink(),
            r"image_text_encoder.onnx: missing; export anew",
        ),
        (lambda folder: (folder / "config.json").unlink(), r"config.json: missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer.json: missing"),
        (read_outside, r"text_tower.onnx: keeps weights in another file, '../../etc/passwd'"),
        (read_outside_within_a_node, r"text_tower.onnx: keeps weights in another file, '/etc/passwd'"),
        (swap_graphs, r"text_image_encoder.onnx: not the graph of a text image encoder"),
        (no_graph, r"text_tower.onnx: not an ONNX graph"),
        (other_shape, r"its parts do not go together \(embeddings are not 99 wide\)"),
        (edit_record(fingerprint="short"), r"export.json: fingerprint: "),
        (edit_record(temperature=float("nan")), r"export.json: temperature: "),
        (edit_record(version=2), r"export.json: version: "),
        (edit_record(files={"../x.onnx": "0"}), r"image_tower.onnx: not the file that export.json describes"),
        (lambda folder: (folder / "export.json").write_text("{"), r"export.json: not valid JSON"),
    ],
)
def test_what_is_wrong_with_an_export_is_said_in_one_line(
    damage: Callable[[Path], None], message: str, export: Path
) -> None:
    damage(export)
    with pytest.raises(CcmbError, match=message) as raised:
        load_network(export)
    assert "\n" not in str(raised.value)


def test_graphs_that_are_links_are_read_where_they_are_those_of_the_record(export: Path) -> None:
    """As in the hub's cache, whose folders are links to files elsewhere."""
    point_out(export)
    load_network(export)
    (export.parent / "elsewhere.onnx").write_bytes(b"root:x:0:0")
    with pytest.raises(CcmbError, match=r"text_tower.onnx: not the file that export.json describes"):
        load_network(export)


def test_an_export_of_another_model_is_refused_by_an_index(exports: dict[str, Path], tmp_path: Path) -> None:
    save(tmp_path / "other", seed=1)
    network, processor = load_network(tmp_path / "other")
    (tmp_path / "pictures").mkdir()
    build_index([tmp_path / "pictures"], tmp_path / "index", R2D2Stages(network, processor, source=tmp_path / "other"))
    with pytest.raises(CcmbError, match="has other weights"):
        hits_of(tmp_path / "index", exports["int8"])


def test_an_export_is_not_trained_nor_exported_nor_put_where_other_things_are(export: Path, model: Path) -> None:
    with pytest.raises(CcmbError, match=r"an export, which only encodes and ranks; give the model it was made of"):
        load_model(export)
    with pytest.raises(UsageError, match="an export itself"):
        export_model(export, export.parent / "again")
    with pytest.raises(UsageError, match="exists and is no export"):
        export_model(model, model)
    assert (model / "model.safetensors").is_file()


def test_the_command_reports_speed_and_recall_and_keeps_both(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command, corpus = command_line(monkeypatch, capfd), tiny_corpus(tmp_path / "corpus")
    out = tmp_path / "export"
    data = ["--data", corpus / "pairs.jsonl", "--split", "test", "--text-field", "captions", "--depth", 4]
    made = command("export", "--model", model, "--out", out, *data, "--json", tmp_path / "report.json")
    assert made.code == 0, made.err
    for line in ("image tower", "both cross encoders", "images/s", "pairs.jsonl, test: 6 images", "ranking, MR"):
        assert line in made.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.loads((out / "export.json").read_text())["measured"] == report
    item = report["recall"]["difference"]["ranking"]["mean_recall"]
    means = [report["recall"][name]["mean_recall"]["ranking"] for name in ("torch", "export")]
    assert item["points"] == pytest.approx(means[1] - means[0], abs=0.02)
    assert item["low"] <= item["points"] <= item["high"]
    assert command("export", "--model", model, "--out", tmp_path / "x", "--limit-texts", 1).code == 2
    assert command("evaluate", "--model", out, *data).code == 0


def test_without_the_library_it_is_named(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"needs onnxruntime; install it with pip install 'ccmb\[fast\]'"):
        load_network(export)
