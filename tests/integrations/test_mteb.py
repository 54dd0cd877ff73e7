"""mteb evaluates our models on our sets and gives our numbers; our exported results load in mteb."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mteb")
import mteb

from ccmb.benchmark.evaluation.measurement import Readable
from ccmb.benchmark.evaluation.retrieval import measure
from ccmb.benchmark.evaluation.sets import open_measured_set
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.results.result import read_result
from ccmb.benchmark.runner import run_benchmark
from ccmb.core.errors import UsageError
from ccmb.inference.models.open_model import open_model
from ccmb.inference.two_stage import Direction
from ccmb.integrations.mteb import MtebEncoder, MtebSearch, cross_encoder, encoder
from ccmb.integrations.mteb_export import export_result
from ccmb.integrations.mteb_names import task_name
from ccmb.integrations.mteb_tasks import local_task
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import save_r2d2, save_two_towers

COUNT = 12
DIRECTIONS: tuple[Direction, ...] = ("text_to_image", "image_to_text")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Images with two texts each; two images share a text."""
    (tmp_path / "images").mkdir()
    lines = []
    for row, image in enumerate(tiny_images(COUNT)):
        image.save(tmp_path / "images" / f"{row}.png")
        shuffled = random.Random(row).sample(TEXTS, 4)  # distinct to a tiny vocabulary too
        texts = ["".join(shuffled[:2]), TEXTS[0] * 2 if row < 2 else "".join(shuffled[2:])]
        lines.append({"image": f"{row}.png", "texts": texts, "split": "test"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    return path


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["r2d2", "chinese_clip"])
def test_mteb_gives_our_numbers(kind: str, direction: Direction, pairs: Path, tmp_path: Path) -> None:
    name = str(save_r2d2(tmp_path / kind) if kind == "r2d2" else save_two_towers(tmp_path / kind, kind))
    model, depth = open_model(name), 6
    opened = open_measured_set(f"mine={pairs}")
    section = measure(model, opened, Readable(opened), tmp_path, Settings(depth=depth, draws=20)).section
    wrapped = {"pre_ranking": MtebEncoder(model)}
    if model.can_rank:
        wrapped["ranking"] = MtebSearch(model, depth)
    for stage, wrapper in wrapped.items():
        task = local_task(f"mine={pairs}", direction)
        assert task.metadata.name == task_name("mine", direction)
        done = mteb.evaluate(wrapper, [task], cache=None, overwrite_strategy="always", show_progress_bar=False)
        (scores,) = done.task_results[0].scores["test"]
        ours = section.recalls(direction, stage)
        for k in (1, 5, 10):
            assert round(100 * scores[f"hit_rate_at_{k}"], 2) == pytest.approx(ours[f"R@{k}"], abs=0.01)


def test_a_cross_encoder_scores_pairs_as_the_model_does(tmp_path: Path) -> None:
    name = str(save_r2d2(tmp_path / "r2d2"))
    model, images = open_model(name), tiny_images(3)
    batches = [{"text": list(TEXTS[:2])}, {"text": [TEXTS[2]]}], [{"image": images[:2]}, {"image": images[2:]}]
    scores = cross_encoder(name).predict(*batches)
    encoded, texts = model.encode_images(range(3), images.__getitem__), model.encode_texts(TEXTS[:3])
    index = torch.arange(3)
    np.testing.assert_allclose(scores, model.score_pairs(encoded, texts, index, index).ranking.numpy(), atol=1e-5)
    with pytest.raises(UsageError, match="no second stage"):
        cross_encoder(str(save_two_towers(tmp_path / "clip", "clip")))


def test_a_model_says_what_it_is(tmp_path: Path) -> None:
    meta = encoder(str(save_r2d2(tmp_path / "r2d2"))).mteb_model_meta
    assert meta.name == "ccmb/r2d2"
    assert meta.n_parameters > 0
    assert meta.license is None  # nothing says it


def test_exported_results_load_in_mteb(pairs: Path, tmp_path: Path) -> None:
    name = str(save_r2d2(tmp_path / "r2d2"))
    settings = Settings(depth=6, draws=20)
    (path,) = run_benchmark([name], [open_measured_set(f"mine={pairs}")], tmp_path / "results", settings).measured
    result = read_result(path)
    written = export_result(result, tmp_path / "mteb")
    assert [file.stem for file in written] == ["MineT2IRetrieval", "MineI2TRetrieval"]
    assert {file.parent.parent.name for file in written} == {"ccmb__r2d2"}
    for file, direction in zip(written, DIRECTIONS, strict=True):
        loaded = mteb.TaskResult.from_disk(file)
        (scores,) = loaded.scores["test"]
        recalls = result.retrieval.recalls(direction, "ranking")
        assert [round(100 * scores[f"hit_rate_at_{k}"], 2) for k in (1, 5, 10)] == [*recalls.values()]
        assert scores["main_score"] == scores["hit_rate_at_1"]
