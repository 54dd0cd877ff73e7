"""Mined negatives: neighbours by the towers' own embeddings, found once, and the same in a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.errors import CcmbError
from ccmb.objectives.pretraining import PreTraining
from ccmb.tasks.common.datasets import open_training
from ccmb.tasks.pretraining import mining
from ccmb.tasks.pretraining.batches import PairReader
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import build_network, make_pretraining, pretrain
from tests.helpers.exact import PROOFS
from tests.helpers.processes import run_in_processes
from tests.helpers.runs import TRAIN, damage_images, log_of, tiny_corpus, tiny_recipe

pytestmark = PROOFS

MINING = "data.mining={group: 2, neighbors: 3, texts: 2}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCMB_CACHE", str(tmp_path / "cache"))


def recipe(corpus: Path, steps: int, *changes: str) -> PretrainRecipe:
    return load_recipe(PretrainRecipe, find_recipe("quickstart"), [*tiny_recipe(corpus, steps)[1:], MINING, *changes])


METRICS = ("step", "loss", "gcpr", "fgr")


def test_neighbours_are_nearest_by_image_and_texts_together(corpus: Path) -> None:
    run = recipe(corpus, 2, "data.mining={group: 2, neighbors: 3, texts: 50}")
    samples, images = open_training(run.data)
    model, processor = build_network(run, samples)
    pretraining = make_pretraining(model, processor, run)
    reader = PairReader(samples, images, run.data, run.training)
    neighbors = mining.find_neighbors(reader, pretraining, processor)
    # By plain loops over the same draws of texts.
    model.eval()
    sums: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for batch, _ in reader.each(processor, 50, 7):
            assert batch is not None
            for name, image, text in zip(batch.names, *pretraining.embeds(batch), strict=True):
                sums.setdefault(name, []).append(torch.stack([image, text]))
    unit = torch.nn.functional.normalize
    feature = {name: unit(unit(torch.stack(both).sum(0), dim=1).sum(0), dim=0) for name, both in sums.items()}
    assert neighbors.shape == (len(samples), 3)
    for index, sample in enumerate(samples):
        others = {name: float(feature[sample.image] @ vector) for name, vector in feature.items()}
        del others[sample.image]
        nearest = sorted(others, key=lambda name: -others[name])[:3]
        assert [samples[other].image for other in neighbors[index]] == nearest


def test_a_run_that_goes_on_has_the_batches_of_one_that_never_stopped(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recipe(corpus, 6, "training.checkpoint_every=3")
    whole = log_of(run, tmp_path / "whole", METRICS)
    plain, stop = PreTraining.losses, 4

    def losses(self: PreTraining, *rest: Any) -> Any:
        nonlocal stop
        stop -= 1
        if not stop:
            raise CcmbError("stopped")
        return plain(self, *rest)

    monkeypatch.setattr(PreTraining, "losses", losses)
    monkeypatch.setattr(PreTraining, "forward", losses)
    with pytest.raises(CcmbError, match="stopped"):
        pretrain(run, tmp_path / "halves")
    monkeypatch.undo()

    def again(*_: Any) -> Any:
        raise AssertionError("the neighbours are in the run folder")

    monkeypatch.setattr(mining, "find_neighbors", again)
    assert log_of(run, tmp_path / "halves", METRICS) == whole


EVERY = "data.mining={group: 2, neighbors: 3, texts: 2, every: 2}"


def test_a_round_has_the_neighbours_of_its_first_weights_and_a_run_that_goes_on_the_same(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recipe(corpus, 5, EVERY, "training.checkpoint_every=1", "optimizer.lr=0.01")
    whole = log_of(run, tmp_path / "whole", METRICS)
    files = ["neighbors.npy", "neighbors-2.npy", "neighbors-4.npy"]
    first, *_, last = found = [np.load(tmp_path / "whole" / name) for name in files]
    assert sorted(path.name for path in (tmp_path / "whole").glob("neighbors*")) == sorted(files)
    assert (first != last).any()
    # Stopped within the second round, and before the third.
    for stop in (3, 4):
        out, plain, left = tmp_path / f"stopped-{stop}", PreTraining.forward, stop + 1

        def losses(self: PreTraining, *rest: Any, plain: Any = plain) -> Any:
            nonlocal left
            left -= 1
            if not left:
                raise CcmbError("stopped")
            return plain(self, *rest)

        monkeypatch.setattr(PreTraining, "forward", losses)
        with pytest.raises(CcmbError, match="stopped"):
            pretrain(run, out)
        monkeypatch.undo()
        monkeypatch.setenv("CCMB_CACHE", str(tmp_path / "cache"))
        assert log_of(run, out, METRICS) == whole
        for name, neighbors in zip(files, found, strict=True):
            assert (np.load(out / name) == neighbors).all()


def test_rounds_cover_the_steps() -> None:
    assert list(mining.rounds(0, 5, None)) == [(0, 5)]
    assert list(mining.rounds(3, 9, 2)) == [(3, 4), (4, 6), (6, 8), (8, 9)]
    assert [mining.file_of_round(step, 2) for step in (0, 1, 3)] == [mining.FILE, mining.FILE, "neighbors-2.npy"]
    assert mining.file_of_round(7, None) == mining.FILE


def test_what_is_too_alike_is_no_neighbour(corpus: Path) -> None:
    run = recipe(corpus, 2, "data.mining={group: 2, neighbors: 3, texts: 2}")
    samples, images = open_training(run.data)
    model, processor = build_network(run, samples)
    pretraining, reader = make_pretraining(model, processor, run), PairReader(samples, images, run.data, run.training)
    with torch.inference_mode():
        feature_ID = mining._features(reader, pretraining, processor, len(samples), 2)
    cosine_II = feature_ID @ feature_ID.T - 2 * torch.eye(len(samples))
    limit = float(cosine_II.amax(1).median())
    nearest_IK = mining._nearest(feature_ID, 3, limit)
    alone = 0
    for row, others in enumerate(nearest_IK.tolist()):
        allowed = [
            other for other in cosine_II[row].argsort(descending=True).tolist() if cosine_II[row, other] <= limit
        ]
        allowed.remove(row)
        assert others == (allowed + [row] * 3)[:3]
        alone += allowed[0] != int(cosine_II[row].argmax())
    assert alone >= 1  # some lost their nearest


def test_samples_of_one_image_are_no_neighbours_and_unreadable_images_are_passed_over(tmp_path: Path) -> None:
    folder = tiny_corpus(tmp_path / "corpus")
    lines = (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "pairs.jsonl").write_text("\n".join([*lines, *lines]), encoding="utf-8")
    damage_images(folder, [json.loads(lines[0])["image"]])
    run = recipe(folder, 2)
    pretrain(run, tmp_path / "run")
    samples, _ = open_training(run.data)
    neighbors = np.load(tmp_path / "run" / mining.FILE)
    for sample, others in zip(samples, neighbors, strict=True):
        assert sample.image not in {samples[other].image for other in others}


@pytest.mark.parametrize("content", [b"", b"no array", np.zeros((2, 3), np.int64).tobytes()])
def test_damaged_neighbours_are_named(corpus: Path, tmp_path: Path, content: bytes) -> None:
    run = recipe(corpus, 2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / mining.FILE).write_bytes(content)
    with pytest.raises(CcmbError, match=r"neighbors\.npy: .* remove it, and it is made again"):
        pretrain(run, tmp_path / "run")


def test_neighbours_of_other_data_are_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    np.save(tmp_path / "run" / mining.FILE, np.zeros((TRAIN + 1, 3), np.int64))
    with pytest.raises(CcmbError, match=f"not the neighbours of {TRAIN} samples"):
        pretrain(recipe(corpus, 2), tmp_path / "run")


# Without dropout, whose masks differ from process to process, and with the whole batch ranked.
ALIKE = ["model.text.hidden_dropout_prob=0", "model.text.attention_probs_dropout_prob=0", "model.cross_dropout=0"]
ALIKE += ["objectives.fgr.batch_share=1", "data.augmentation={}"]


def _of_a_rank(corpus: Path, out: Path) -> dict[str, Any]:
    return {"log": log_of(recipe(corpus, 3, *ALIKE), out, METRICS)}


def test_two_processes_are_one(corpus: Path, tmp_path: Path) -> None:
    one = log_of(recipe(corpus, 3, *ALIKE), tmp_path / "one", METRICS)
    run_in_processes(2, _of_a_rank, tmp_path, corpus, tmp_path / "two")
    two = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-6)
    assert (np.load(tmp_path / "one" / mining.FILE) == np.load(tmp_path / "two" / mining.FILE)).all()
