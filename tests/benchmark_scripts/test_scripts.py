"""The benchmark's plain step is the same training as ours, whatever items are switched on, and its report holds."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ccmb.inference.stages import R2D2Ranker
from ccmb.objectives.config import Objectives
from ccmb.objectives.pretraining import PreTraining
from tests.helpers.exact import assert_same
from tests.helpers.runs import tiny_corpus
from tests.helpers.sources import save_backbone, save_sentence_encoder
from tests.helpers.tiny import tiny_batch, tiny_model, tiny_processor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import corpus_download  # noqa: E402
import evaluate_retrieval  # noqa: E402
import frozen_towers  # noqa: E402
import gallery_memory  # noqa: E402
import mixed_load  # noqa: E402
import paired  # noqa: E402
import pretrain_scaling  # noqa: E402
import pretrain_step  # noqa: E402
import search  # noqa: E402
import step_shapes  # noqa: E402
from albef_step import AlbefStep  # noqa: E402
from official_ranking import official_scores  # noqa: E402
from step_ablation import ITEMS, SwitchedStep  # noqa: E402

UPTO = [frozenset(list(ITEMS)[:count]) for count in range(len(ITEMS) - 1)]


def training(**objectives: Any) -> PreTraining:
    values = Objectives.model_validate({"tgd": {"queue_size": 6}} | objectives)
    return PreTraining(tiny_model(), values, tiny_processor().tokenizer.mask_token_id).train()


@pytest.mark.numeric
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("items", UPTO, ids=lambda items: f"{len(items)} items")
def test_the_plain_step_has_our_losses_and_gradients(items: frozenset[str], masked: bool) -> None:
    own_training, plain = training(fgr={"enhanced_training": masked}), training(fgr={"enhanced_training": masked})
    batch = tiny_batch(5, image_ids=[0, 1, 2, 1, 3])
    # A second step: the queue is filled, and the teacher is no longer the student.
    for one in (own_training, plain):
        one.losses(batch, 0.0, torch.Generator().manual_seed(1))
        with torch.no_grad():
            one.model.text_projection.weight.mul_(-0.5)
    with pretrain_step.recorded_draws() as draws:
        losses, _ = own_training.losses(batch, 0.0, torch.Generator().manual_seed(0))
    step = SwitchedStep(plain, items) if items else AlbefStep(plain)
    others = step.losses(batch, draws())
    assert_same(others, losses)
    own_training.total(losses).backward()
    step.total(others).backward()
    for (name, parameter), other in zip(own_training.model.named_parameters(), plain.model.parameters(), strict=True):
        assert_same(other.grad, parameter.grad, msg=name)


@pytest.mark.numeric
@pytest.mark.usefixtures("float64")
def test_the_plain_average_of_the_teacher_is_ours() -> None:
    own_training, plain = training(), training()
    for one in (own_training, plain):
        with torch.no_grad():
            for parameter in one.model.parameters():
                parameter.add_(1.0)
    own_training.after_step()
    AlbefStep(plain).after_step()
    assert_same(plain.state_dict(), own_training.state_dict())


@pytest.mark.parametrize("items", [frozenset(), frozenset({"draw"})])
def test_negatives_of_the_plain_step_are_no_positives(items: frozenset[str]) -> None:
    step, ids = SwitchedStep(training(), items), torch.tensor([0, 1, 0, 2])
    positives = ids[:, None] == ids[None, :]
    for seed in range(10):
        torch.manual_seed(seed)
        wrong_image, wrong_text = step.draw(100 * torch.randn(4, 4), positives)
        assert not (ids[wrong_image] == ids).any()
        assert not (ids[wrong_text] == ids).any()


def test_the_benchmark_prints_and_writes_its_claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step.json"
    words = f"--shape test --batch 4 --repeats 2 --device cpu --queue 8 --ablation --json {path}"
    pretrain_step.main(words.split())
    report = json.loads(path.read_text())
    assert set(report) == {"claims", "machine", "commit", "results"}
    assert all(set(claim) == {"name", "value", "target", "unit"} for claim in report["claims"])
    difference, operations, *ratios = report["claims"]
    assert difference["value"] <= difference["target"] == 1e-4
    assert operations["value"] > 1
    assert [claim["target"] for claim in ratios] == [2.5, 2.5]
    assert len(report["results"]["ablation"]) == len(ITEMS) - 1  # all but the compiled layers
    printed = capsys.readouterr().out
    assert all(claim["name"] in printed for claim in report["claims"])
    assert all(f"| + {item}: " in printed for item in ITEMS if item != "compile")


def test_ours_alone_is_timed_without_the_plain_step(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    words = f"--shape test --repeats 1 --device cpu --queue 8 --precision fp32 --ours-only --json {path}"
    pretrain_step.main(words.split())
    report = json.loads(path.read_text())
    assert [step["name"] for step in report["results"]["steps"]] == ["ours, fp32"]
    assert [claim["target"] for claim in report["claims"]] == [1e-4]


@pytest.mark.numeric
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("by_text", [True, False])
def test_the_official_second_stage_scores_as_ours(by_text: bool) -> None:
    model = tiny_model()
    images, texts = evaluate_retrieval.random_sides(model.config, 5, 7)
    with torch.inference_mode():
        official = official_scores(model, images, texts, by_text, 3)
    queries, items = (texts, images) if by_text else (images, texts)
    top = (queries.embed @ items.embed.T).topk(3)
    assert torch.equal(official > -100, torch.zeros_like(official, dtype=torch.bool).scatter(1, top.indices, True))
    query_QK = torch.arange(len(queries))[:, None].expand_as(top.indices)
    pairs = (top.indices, query_QK) if by_text else (query_QK, top.indices)
    indices = (index.flatten() for index in pairs)
    own_scores = R2D2Ranker(model).rank_scores(images, texts, *indices, top.values.flatten())
    assert_same(official.gather(1, top.indices).flatten(), own_scores)


def test_the_benchmark_of_evaluation_prints_and_writes_its_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = tmp_path / "evaluation.json", tmp_path / "model"
    tiny_model().save_pretrained(model)
    tiny_processor().save_pretrained(model)
    corpus = tiny_corpus(tmp_path / "corpus")
    words = f"--shape test --depth 20 --repeats 2 --model {model} --data {corpus / 'pairs.jsonl'} --recall-depth 10"
    evaluate_retrieval.main([*words.split(), "--bf16", "--galleries", "--json", str(path)])
    report = json.loads(path.read_text())
    assert set(report) == {"claims", "machine", "commit", "results"}
    difference, *other_claims = report["claims"]
    assert difference["value"] <= difference["target"] == 1e-4
    assert [claim["unit"] for claim in other_claims] == ["x"] * 6 + ["points"] * 6
    assert other_claims[6]["value"] == 0  # ours and official
    printed = capsys.readouterr().out
    assert all(claim["name"] in printed for claim in report["claims"])


def test_memory_is_that_of_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert 100 < gallery_memory.peak_of("encode", path, 200) < 2000
    assert 100 < gallery_memory.peak_of("rank", path, 200) < 2000
    ranks = gallery_memory.rank(path, 200)
    assert len(ranks) == gallery_memory.TEXTS


def test_the_command_of_the_page_on_evaluation_exists() -> None:
    docs = BENCHMARKS.parent / "docs"
    pages = [(docs / f"evaluation{suffix}.md").read_text(encoding="utf-8") for suffix in ("", ".zh")]
    english, chinese = (
        re.findall(r"^python benchmarks/evaluate_retrieval\.py (.*)", page, re.MULTILINE) for page in pages
    )
    assert english == chinese
    assert all(evaluate_retrieval.parse(words.split()).json for words in english)
    assert english


def test_the_commands_of_the_page_exist() -> None:
    pages = [(BENCHMARKS.parent / "docs" / name).read_text(encoding="utf-8") for name in ("speed.md", "speed.zh.md")]
    english, chinese = (re.findall(r"^python benchmarks/(\w+)\.py (.*)", page, re.MULTILINE) for page in pages)
    assert english == chinese
    modules = {"pretrain_step": pretrain_step, "pretrain_scaling": pretrain_scaling, "frozen_towers": frozen_towers}
    assert {name for name, _ in english} == set(modules)
    for name, words in english:
        assert modules[name].parse(words.split()).json


@pytest.mark.parametrize("page", ["speed.md", "evaluation.md"])
def test_the_tests_and_files_of_the_page_exist(page: str) -> None:
    page = (BENCHMARKS.parent / "docs" / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|benchmarks)/[\w/.]+)`", page)
    assert len(named) > 10
    assert all((BENCHMARKS.parent / name).is_file() for name in named)


@pytest.mark.slow
def test_two_processes_are_measured_against_one(tmp_path: Path) -> None:
    path = tmp_path / "scaling.json"
    pretrain_scaling.main(f"--shape test --batch 2 --steps 1 --repeats 1 --queue 8 --json {path}".split())
    [claim] = json.loads(path.read_text())["claims"]
    assert claim["value"] > 0
    assert claim["unit"] == "%"


@pytest.mark.slow
def test_downloads_are_measured_against_a_plain_loop(tmp_path: Path) -> None:
    path = tmp_path / "download.json"
    corpus_download.main(f"--count 40 --files 5 --repeats 1 --json {path}".split())
    report = json.loads(path.read_text())
    assert [claim["unit"] for claim in report["claims"]] == ["pictures/s", "pictures/s", "x"]
    own_run, plain = report["results"]["runs"]
    assert own_run["name"] == "ours"
    assert plain["name"] == "plain loop (urllib in threads, Pillow)"


def test_lengths_are_those_of_captions(tmp_path: Path) -> None:
    drawn = step_shapes.draw_lengths(4000, 64, 0)
    assert abs(sum(drawn) / len(drawn) - 15) < 0.5
    assert min(drawn) >= 4
    assert max(drawn) <= 64
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image": "a.jpg", "texts": ["红船", "海边的一只船"]}\n', encoding="utf-8")
    assert set(step_shapes.read_lengths(path, 50, 64, 0)) == {4, 8}


def test_work_counts_real_tokens_alone() -> None:
    config = step_shapes.shape_config("test")
    short, long = (step_shapes.flops_per_sample(config, [length] * 3) for length in (10, 60))
    assert short < long
    mixed = step_shapes.flops_per_sample(config, [10, 60])
    assert short < mixed < long


def test_contestants_take_turns_and_the_ratio_is_that_of_rounds() -> None:
    order: list[str] = []
    slow, fast = (paired.Contestant(name, lambda _, name=name: order.append(name)) for name in ("slow", "fast"))
    paired.take_turns([slow, fast], 3, torch.device("cpu"))
    assert order == ["slow", "fast", "fast", "slow"] * 2
    slow.seconds, fast.seconds = [4.0, 6.0, 40.0], [2.0, 2.0, 10.0]
    middle, low, high = paired.median_ratio(slow, fast)
    assert middle == 3
    assert 2 <= low <= middle <= high <= 4


@pytest.mark.slow
def test_a_server_is_loaded_with_and_without_batching(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    words = "--shape test --pictures 12 --clients 2 --requests 4 --rounds 2 --depth 4 --no-export"
    search.main([*words.split(), "--json", str(path)])
    report = json.loads(path.read_text())
    [claim] = report["claims"]
    assert (claim["unit"], claim["target"]) == ("x", 2.0)
    assert report["results"]["depth 4"]["alone"]["queries_per_second"] > 0


@pytest.mark.slow
def test_a_server_is_searched_added_to_and_deleted_from_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mixed.json"
    words = "--shape test --pictures 12 --clients 2 --kept 3 --minutes 0.3"
    mixed_load.main([*words.split(), "--json", str(path)])
    report = json.loads(path.read_text())
    _, errors, stale, searches, _ = (claim["value"] for claim in report["claims"])
    assert (errors, stale) == (0, 0), report["results"]
    assert searches > 0
    assert report["results"]["deleted"] > 0


def test_growth_is_of_the_last_tenth_over_the_second() -> None:
    sizes = [50, 100, 100, 110, 120, 105, 130, 90, 100, 110, 110]
    assert mixed_load.growth(list(enumerate(sizes))) == (pytest.approx(10), 100, 110)


def test_stored_towers_have_the_losses_of_computed_ones(tmp_path: Path) -> None:
    towers = (
        save_backbone(tmp_path / "image", "resnet"),
        save_sentence_encoder(tmp_path / "text", pooling="mean_tokens"),
    )
    data = ["--data", str(tiny_corpus(tmp_path / "data")), "--pairs", "pairs.jsonl", "--fields", "captions", "details"]
    options = ["--batch", "8", "--size", "64", "--repeats", "2", "--precision", "fp32", "--threads", "1"]
    report = frozen_towers.main([*data, "--vision", str(towers[0]), "--text", str(towers[1]), *options])
    for line in report["results"]["lines"]:
        assert line["loss_difference"] < frozen_towers.CLOSE
        assert all(len(losses) == 3 for losses in line["losses"])
        assert line["ratio"] > 0
    assert [claim["unit"] for claim in report["claims"]] == ["x", "", "x", ""]
