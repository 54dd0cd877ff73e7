"""A run that reads what its frozen towers compute from the user's cache comes to the losses of one that computes it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.states.store import StateStore
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.stillness import frozen_depth
from ccmb.tasks.common.datasets import open_training
from ccmb.tasks.pretraining import states_items, states_pass
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import build_network, make_pretraining, pretrain
from ccmb.tasks.pretraining.states_items import ImagePass
from tests.helpers import runs
from tests.helpers.exact import PROOFS, same
from tests.helpers.processes import run_in_processes
from tests.helpers.runs import TRAIN, damage_images, tiny_corpus, tiny_recipe

pytestmark = PROOFS

STEPS = 8  # of eight pairs: more than there are images or texts
WHOLE = ["model.freeze.image=all", "model.freeze.text=all"]
LOWEST = ["model.freeze.image=1", "model.freeze.text=1"]


def deep(dropout: float = 0.1) -> list[str]:
    """Towers of two layers each."""
    shape = "hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2"
    vision = f"model_type: clip_vision_model, image_size: 32, patch_size: 16, attention_dropout: {dropout}, {shape}"
    dropouts = f"hidden_dropout_prob: {dropout}, attention_probs_dropout_prob: {dropout}"
    return [f"model.vision={{{vision}}}", f"model.text={{model_type: bert, {dropouts}, {shape}}}"]


ALL_OBJECTIVES = ["objectives.fgr.start_at=0", "objectives.mlm.start_at=0", "objectives.tgd.start_at=0"]
STORED, COMPUTED = "training.frozen_states=on", "training.frozen_states=off"
FIGURES = ("loss", "gcpr", "fgr", "mlm", "tgd", "fgd", "gradient_norm", "teacher_agreement")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, with states in float64."""
    monkeypatch.setenv("CCMB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(states_pass, "STORED_AS", torch.float64)
    return tmp_path / "cache" / "states"


def recipe(corpus: Path, *changes: str) -> PretrainRecipe:
    return load_recipe(PretrainRecipe, find_recipe("quickstart"), [*tiny_recipe(corpus, STEPS)[1:], *changes])


def log_of(recipe: PretrainRecipe, out: Path) -> list[dict[str, Any]]:
    return runs.log_of(recipe, out, FIGURES)


def _of_a_rank(corpus: Path, out: Path) -> dict[str, list[str]]:
    """What a rank's last batch holds of stored states, in a run of several."""
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    states_pass.STORED_AS = torch.float64
    seen: list[str] = []
    plain = PreTraining.losses

    def losses(self: PreTraining, batch: Any, *rest: Any) -> Any:
        seen[:] = [name for name in ("image_rows", "text_rows") if getattr(batch, name) is not None]
        return plain(self, batch, *rest)

    PreTraining.losses = PreTraining.forward = losses  # type: ignore[method-assign]
    pretrain(recipe(corpus, *LOWEST, *deep(0.0), *ALL_OBJECTIVES, "objectives.fgr.batch_share=1", STORED), out)
    return {"names": seen}


class Computed:
    """Counts the images and texts that a network's towers compute."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = self.texts = 0
        images, texts = R2D2Model.run_image_tower, R2D2Model.run_text_tower

        def run_image_tower(model: R2D2Model, pixel_values: torch.Tensor) -> Any:
            self.images += len(pixel_values)
            return images(model, pixel_values)

        def run_text_tower(model: R2D2Model, input_ids: torch.Tensor, *rest: Any) -> Any:
            self.texts += len(input_ids)
            return texts(model, input_ids, *rest)

        monkeypatch.setattr(R2D2Model, "run_image_tower", run_image_tower)
        monkeypatch.setattr(R2D2Model, "run_text_tower", run_text_tower)


@pytest.mark.parametrize(
    "changes",
    [
        [*WHOLE, *ALL_OBJECTIVES],
        [*WHOLE, "objectives.fgr=off", "objectives.mlm=off", "model.text_pooling=mean"],
        [*WHOLE, *ALL_OBJECTIVES, "training.grad_cache_chunk=3"],
        [*LOWEST, *deep(), *ALL_OBJECTIVES],
        [*LOWEST, *deep(), *ALL_OBJECTIVES, "training.pack_texts=off", "training.gradient_checkpointing=on"],
        ["model.freeze.image=all", "model.freeze.text=1", *deep(), "training.grad_cache_chunk=3"],
        [*WHOLE, "data.augmentation={flip: true, min_crop_scale: 0.5, num_views: 2}", "data.num_workers=2"],
    ],
)  # fmt: skip
def test_losses_are_those_of_towers_that_are_computed(corpus: Path, tmp_path: Path, changes: list[str]) -> None:
    stored = log_of(recipe(corpus, *changes, STORED), tmp_path / "stored")
    computed = log_of(recipe(corpus, *changes, COMPUTED), tmp_path / "computed")
    assert len(stored) == STEPS
    assert stored == [same(line) for line in computed]


def test_a_frozen_tower_computes_each_item_once_over_all_runs(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = Computed(monkeypatch)
    run = recipe(corpus, *WHOLE, "objectives.fgr=off", "objectives.mlm=off", "objectives.fgd=off", STORED)
    pretrain(run, tmp_path / "first")
    assert 0 < computed.images <= TRAIN + states_pass.PROBED + 1
    texts = {text for sample in open_training(run.data)[0] for text in sample.texts}
    assert len(texts) <= computed.texts <= len(texts) + states_items.BATCH
    before = computed.images, computed.texts
    pretrain(run, tmp_path / "second")
    assert (computed.images - before[0], computed.texts - before[1]) == (1, 1)  # the model's own check


def test_two_processes_that_share_the_pass_are_one(corpus: Path, tmp_path: Path) -> None:
    one = log_of(
        recipe(corpus, *LOWEST, *deep(0.0), *ALL_OBJECTIVES, "objectives.fgr.batch_share=1", COMPUTED), tmp_path / "one"
    )
    for ranks in run_in_processes(2, _of_a_rank, tmp_path, corpus, tmp_path / "two"):
        assert ranks["names"] == ["image_rows", "text_rows"]
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    joint = FIGURES[:-1]  # the teacher's agreement is that of the first rank's rows
    expected = [same({name: line[name] for name in joint if name in line}) for line in one]
    assert [{name: line[name] for name in joint if name in line} for line in lines] == expected


def test_rounded_states_change_the_losses_little(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states_pass, "STORED_AS", torch.float16)
    first, *_ = log_of(recipe(corpus, *WHOLE, STORED), tmp_path / "stored")
    computed, *_ = log_of(recipe(corpus, *WHOLE, COMPUTED), tmp_path / "computed")
    assert first["gcpr"] == pytest.approx(computed["gcpr"], rel=1e-2)
    assert first["gcpr"] != computed["gcpr"]


def test_images_that_cannot_be_read_are_left_out_as_ever(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path / "corpus")
    damaged = [json.loads(line)["image"] for line in (corpus / "pairs.jsonl").read_text().splitlines()][:2]
    damage_images(corpus, damaged)
    runs = {name: log_of(recipe(corpus, *WHOLE, name), tmp_path / name) for name in (STORED, COMPUTED)}
    assert runs[STORED] == [same(line) for line in runs[COMPUTED]]
    lists = [(tmp_path / name / "unreadable.txt").read_text() for name in runs]
    assert lists[0] == lists[1]
    assert all(name in lists[0] for name in damaged)


def test_a_pass_that_was_stopped_goes_on(
    corpus: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_items, "BATCH", 4)
    monkeypatch.setattr(states_pass, "FILE_BYTES", 1)
    plain, written = StateStore.write, list[int]()

    def write(store: StateStore, items: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        plain(store, items)
        written.append(len(items))

    monkeypatch.setattr(StateStore, "write", write)
    run = recipe(corpus, *WHOLE, STORED)
    with pytest.raises(KeyboardInterrupt):
        pretrain(run, tmp_path / "run")
    assert written == [4, 4, 4]
    assert len(list(cache.glob("image-*/*.safetensors"))) == 3
    monkeypatch.setattr(StateStore, "write", plain)
    computed = Computed(monkeypatch)
    resumed = log_of(run, tmp_path / "run")
    assert computed.images == TRAIN - 12 + states_pass.PROBED / 2 + 1
    whole = log_of(recipe(corpus, *WHOLE, COMPUTED), tmp_path / "computed")
    assert resumed == [same(line) for line in whole]


def test_states_are_stored_in_many_files_while_the_network_computes_in_bf16(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(states_pass, "STORED_AS", torch.float16)
    monkeypatch.setattr(states_pass, "FILE_BYTES", 1)
    monkeypatch.setattr(states_items, "BATCH", 4)
    assert len(log_of(recipe(corpus, *WHOLE, *ALL_OBJECTIVES, STORED, "training.precision=bf16"), tmp_path / "run"))
    assert len(list(cache.glob("image-*/*.safetensors"))) == TRAIN / 4


def test_a_damaged_file_is_computed_anew(corpus: Path, tmp_path: Path, cache: Path) -> None:
    run = recipe(corpus, *WHOLE, STORED)
    before = log_of(run, tmp_path / "first")
    for path in cache.glob("*/*.safetensors"):
        data = path.read_bytes()
        path.write_bytes(data[:-8] + b"\xff" * 8)
    assert log_of(run, tmp_path / "second") == [same(line) for line in before]


def test_states_that_do_not_fit_are_computed_and_a_line_says_so(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    little = [*WHOLE, "training.frozen_states_gb=1e-6", "training.steps=40"]
    log = log_of(recipe(corpus, *little), tmp_path / "computed")
    lines = [line for line in capfd.readouterr().err.splitlines() if "states need" in line]
    assert len(lines) == 2
    assert lines[0].startswith("ccmb: the frozen image tower is computed each time (its states need ")
    assert lines[0].endswith(" GB, for which training.frozen_states_gb=1e-06 or the disk has no room)")
    assert log == [same(line) for line in log_of(recipe(corpus, *little[:2], little[3], COMPUTED), tmp_path / "off")]
    with pytest.raises(
        CcmbError, match=r"frozen_states=on: the frozen image tower cannot be stored \(its states need "
    ):
        pretrain(recipe(corpus, *little, STORED), tmp_path / "refused")


def test_images_that_are_augmented_anew_are_computed_and_texts_stored(
    corpus: Path, tmp_path: Path, cache: Path
) -> None:
    augmented = [*WHOLE, "data.augmentation={min_crop_scale: 0.5}", "training.steps=40"]
    pretrain(recipe(corpus, *augmented), tmp_path / "auto")
    assert [path.name.split("-")[0] for path in cache.iterdir()] == ["text"]
    message = "images are augmented anew each time; give data.augmentation.num_views=4"
    with pytest.raises(UsageError, match=message):
        pretrain(recipe(corpus, *augmented, STORED), tmp_path / "refused")


def test_states_that_are_read_once_are_not_stored(corpus: Path, tmp_path: Path, cache: Path) -> None:
    pretrain(recipe(corpus, *WHOLE, "training.steps=3"), tmp_path / "run")
    assert not cache.exists()


def test_what_the_states_depend_on_is_in_their_key(corpus: Path) -> None:
    def key(*changes: str, move: str = "") -> str:
        run = recipe(corpus, *changes)
        samples, images = open_training(run.data)
        model, processor = build_network(run, samples)
        training = make_pretraining(model, processor, run)
        if move:
            with torch.no_grad():
                next(iter(model.get_submodule(move).parameters())).view(-1)[0].add_(1e-7)
        depth = frozen_depth(model.image_tower)
        tokens = "image" in run.objectives.reads_tokens()
        return ImagePass(training, processor, run, samples, images, depth, tokens).key()

    frozen, flipped = "model.freeze.image=all", "data.augmentation={flip: true, num_views: 2}"
    only_gcpr = "objectives.fgr=off", "objectives.mlm=off"
    plain = key(frozen)
    assert plain == key(frozen) == key(frozen, "model.freeze.text=all", "optimizer.lr=1", "training.batch_size=4")
    assert plain == key(frozen, move="text_tower")
    keys = [
        plain, key(frozen, move="image_tower"), key("model.freeze.image=1"), key(frozen, *only_gcpr),
        key(frozen, flipped), key(frozen, "training.precision=bf16"),
        key(frozen, "data.augmentation={flip: true, color_jitter: 0.1, num_views: 2}"),
    ]  # fmt: skip
    assert len({*keys}) == len(keys)
    assert key(frozen, flipped) == key(frozen, "data.augmentation={flip: true, num_views: 3}")


def test_a_state_that_is_too_large_is_found_out(tmp_path: Path) -> None:
    rows = torch.tensor([[1.0, float("inf")]])
    reason = states_pass._write(StateStore(tmp_path), iter([[(b"0" * 16, rows)]]))
    assert reason is not None
    assert "too large for" in reason
