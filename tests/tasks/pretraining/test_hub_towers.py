"""The recipe hub-towers with tiny random models in the place of the hub's: SigLIP 2 is a `siglip`, E5 an XLM-R."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from ccmb.core.config.recipe_files import find_recipe, load_recipe
from ccmb.core.errors import UsageError
from ccmb.core.files import read_json_lines
from ccmb.r2d2.loading import load_model
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import pretrain
from tests.helpers.runs import tiny_corpus
from tests.helpers.sources import (
    VISIONS,
    assert_works_and_keeps_its_outputs,
    save_sentence_encoder,
    saved,
)
from tests.helpers.two_towers import SHORT, save_two_towers

STEPS = 8  # of eight pairs: more than there are images, in both views, or titles
TINY = [
    "data.fields=[title]", "data.num_workers=0", "model.embed_dim=16", "model.projection_hidden=8",
    "model.cross_layers=1", "model.max_text_tokens=24", "objectives.tgd.queue_size=32",
    f"training.steps={STEPS}", "training.epochs=", "training.batch_size=8", "training.log_every=1",
    "training.precision=fp32", "training.threads=1", "training.device=cpu",
    f"stages.projections.training.steps={STEPS}", "stages.projections.training.epochs=",
    "stages.projections.training.batch_size=8", "stages.cross.training.grad_cache_chunk=4",
    "stages.cross.model.freeze={image: 1, text: 1}",
]  # fmt: skip


def loaded(*overrides: str) -> PretrainRecipe:
    return load_recipe(PretrainRecipe, find_recipe("hub-towers"), overrides)


class Trained(NamedTuple):
    """The towers' folders, the finished run, and the cache of states."""

    vision: Path
    text: Path
    run: Path
    states: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("hub")
    vision = saved(VISIONS["siglip"], root / "siglip")
    text = save_sentence_encoder(root / "e5", "xlm-roberta", "mean_tokens")
    towers = [f"data.folder={tiny_corpus(root / 'corpus')}", f"model.vision={vision}", f"model.text={text}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCMB_CACHE", str(root / "cache"))
        pretrain(loaded(*towers, *TINY), root / "run")
    return Trained(vision, text, root / "run", root / "cache" / "states")


def tower_weights(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "model" / "model.safetensors")
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def test_projections_alone_train_on_stored_states_and_then_the_upper_layers_too(trained: Trained) -> None:
    lines = [line for _, line in read_json_lines(trained.run / "metrics.jsonl")]
    assert [line["stage"] for line in lines] == ["projections"] * STEPS + ["cross"] * STEPS
    assert not {"fgr", "mlm", "tgd", "fgd"} & lines[STEPS - 1].keys()
    assert {"gcpr", "fgr", "mlm", "tgd", "fgd"} <= lines[-1].keys()
    # All of both towers in the first stage; in the second the lowest layers of texts, since images are varied anew.
    assert sorted(path.name.partition("-")[0] for path in trained.states.iterdir() if path.is_dir()) == [
        "image", "text", "text",
    ]  # fmt: skip
    before = load_file(trained.vision / "model.safetensors")
    first = tower_weights(trained.run / "stages" / "1-projections", "image_tower.")
    last = tower_weights(trained.run, "image_tower.")
    theirs = {name: before[f"vision_model.{name.removeprefix('vision_model.')}"] for name in first}
    assert all(torch.equal(first[name], theirs[name]) for name in first)
    layers = {number: [name for name in first if f"layers.{number}." in name] for number in (0, 1)}
    assert layers[0]
    assert all(torch.equal(first[name], last[name]) for name in layers[0])
    assert not all(torch.equal(first[name], last[name]) for name in layers[1])


def test_what_comes_out_loads_encodes_and_ranks(trained: Trained, tmp_path: Path) -> None:
    model, processor = load_model(trained.run)
    assert model.config.vision_config.model_type == "siglip_vision_model"
    assert model.config.text_config.model_type == "xlm-roberta"
    assert (model.config.text_pooling, processor.text_prefix) == ("mean", "query: ")
    assert_works_and_keeps_its_outputs(model, processor, tmp_path)


def test_one_siglip_is_both_towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCMB_CACHE", str(tmp_path / "cache"))
    siglip = save_two_towers(tmp_path / "siglip", "siglip")
    towers = [f"data.folder={tiny_corpus(tmp_path / 'corpus')}", f"model.vision={siglip}", f"model.text={siglip}"]
    towers += ["model.text_pooling=first", "model.text_prefix=''"]
    pretrain(loaded(*towers, *TINY, f"model.max_text_tokens={SHORT}"), tmp_path / "run")
    model, processor = load_model(tmp_path / "run")
    assert model.config.text_config.model_type == "siglip_text_model"
    before = load_file(siglip / "model.safetensors")
    first = tower_weights(tmp_path / "run" / "stages" / "1-projections", "text_tower.")
    assert first
    assert all(torch.equal(tensor, before[f"text_model.{name}"]) for name, tensor in first.items())
    # Of the lowest layers nothing is stored, since the tower pads by itself.
    folders = sorted(path.name.partition("-")[0] for path in (tmp_path / "cache" / "states").iterdir() if path.is_dir())
    assert folders == ["image", "text"]
    assert_works_and_keeps_its_outputs(model, processor, tmp_path / "again")


def test_it_takes_shards_and_other_keys_and_refuses_what_would_do_nothing() -> None:
    lengths = [f"{part}training.{key}" for part in ("", "stages.projections.") for key in ("steps=9", "epochs=")]
    recipe = loaded("data.folder=", "data.shards=x.tar", *lengths)
    assert "augmentation" not in recipe.stages[0].data or not recipe.stages[0].data["augmentation"]
    assert loaded("stages.cross.model.freeze.image=4").stages[1].model["freeze"] == {"image": 4, "text": 8}
    for key in ("image_lr=1e-5", "layer_decay=0.5"):
        with pytest.raises(UsageError, match=r"would do nothing \(.* frozen\)"):
            loaded(f"stages.projections.optimizer.{key}")
    with pytest.raises(UsageError, match="it is one for all stages"):
        loaded("stages.cross.model.vision=x")
