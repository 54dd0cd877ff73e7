"""The network of a recipe: from a model, from two pre-trained towers, or a Chinese-CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ccmb.core.config.recipe_files import check_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.sample import Sample
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.presets import preset
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.pretraining.model import build_model
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import prepare_network
from tests.helpers.runs import command_line, tiny_corpus, tiny_recipe
from tests.helpers.sources import SMALL, STAGES, TOWER, assert_arrived, save_chinese_clip, save_clip, save_text_tower
from tests.helpers.tiny import TEXTS, tiny_decoder_model, tiny_model, tiny_processor


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return save_clip(tmp_path / "clip")


def recipe(objectives: dict[str, Any] | None = None, **model: Any) -> PretrainRecipe:
    values = {"data": {"folder": "x"}, "training": {"steps": 1}, "objectives": objectives or {}}
    return check_recipe(PretrainRecipe, values | {"model": SMALL | model}, "small.yaml")


def built(recipe: PretrainRecipe) -> tuple[R2D2Model, R2D2Processor]:
    return build_model(recipe.model, recipe.objectives, [Sample("a.jpg", TEXTS)])


def test_a_recipe_may_start_from_two_towers(clip: Path, tmp_path: Path) -> None:
    text = save_text_tower(tmp_path / "text", "ernie")
    model, processor = built(recipe(vision=str(clip), text=str(text), initial_temperature=0.2))
    assert_arrived(model.image_tower, clip, "vision_model.")
    assert_arrived(model.text_tower, text)  # its positions too: they are not made sines
    assert processor.tokenizer.get_vocab() == tiny_processor().tokenizer.get_vocab()
    assert float(model.temperature.detach()) == pytest.approx(0.2)
    assert model.config.match_heads
    assert model.config.mlm_head
    without = built(recipe({"fgr": False, "mlm": False}, vision=str(clip), text=str(text)))[0]
    assert not any("match" in name or "mlm" in name for name in without.state_dict())


def test_a_recipe_may_start_from_a_chinese_clip_or_an_r2d2(tmp_path: Path) -> None:
    chinese_clip = save_chinese_clip(tmp_path / "chinese_clip")
    model, _ = built(recipe({"mlm": False}, init_from=str(chinese_clip), embed_dim=12))
    assert_arrived(model.text_tower, chinese_clip, "text_model.")
    assert (model.config.embed_dim, model.config.cross_layers, model.config.mlm_head) == (12, 1, False)
    for folder in (tmp_path / "run" / "model", tmp_path / "plain"):
        tiny_model().save_pretrained(folder)
        tiny_processor().save_pretrained(folder)
    for name in ("run", "plain"):
        started = built(recipe(init_from=str(tmp_path / name), cross_layers=2))[0].state_dict()
        assert all(torch.equal(tensor, started[key]) for key, tensor in tiny_model().state_dict().items())
    with pytest.raises(CcmbError, match="nowhere: no such model folder"):
        built(recipe(init_from=str(tmp_path / "nowhere")))


def towers_alone(folder: Path) -> Path:
    tiny_model(cross_layers=0).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def test_towers_alone_get_the_second_stage_that_the_recipe_asks_for(tmp_path: Path) -> None:
    start, off = str(towers_alone(tmp_path)), {"fgr": False, "mlm": False}
    towers = load_model(tmp_path)[0].state_dict()
    crossed, _ = built(recipe({"mlm": False}, init_from=start, cross_layers=1, standardize_states=True))
    assert (crossed.config.cross_layers, crossed.config.match_heads, crossed.config.mlm_head) == (1, True, False)
    assert crossed.text_standardize is not None
    decoding, _ = built(recipe(off | {"lm": True}, init_from=start, cross_layers=0, decoder_layers=3, rerank_k=9))
    assert (decoding.config.decoder_layers, decoding.config.rerank_k) == (3, 9)
    assert decoding.image_standardize is None
    for model in (crossed, decoding):
        assert model.can_rank
        assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in towers.items())
    assert not built(recipe(off, init_from=start, cross_layers=0))[0].can_rank


def test_reduced_tokens_are_added_for_the_objective_that_trains_them(tmp_path: Path) -> None:
    start = str(towers_alone(tmp_path))
    off = dict.fromkeys(("fgr", "mlm", "tgd", "fgd"), False)
    plain, _ = built(recipe(off, init_from=start, cross_layers=0, reduced_tokens=4))
    assert plain.token_reduction is None
    reduced, _ = built(recipe(off | {"tokenwise": True}, init_from=start, cross_layers=0, reduced_tokens=4))
    assert reduced.config.reduced_tokens == 4
    reduced.save_pretrained(tmp_path / "reduced")
    built_processor = R2D2Processor.from_pretrained(start)
    built_processor.save_pretrained(tmp_path / "reduced")
    again = {"init_from": str(tmp_path / "reduced"), "cross_layers": 0}
    assert built(recipe(off, **again))[0].token_reduction is not None
    with pytest.raises(UsageError, match=r"model\.reduced_tokens=5: the weights of .* settle it, and theirs is 4"):
        built(recipe(off | {"tokenwise": True}, **again, reduced_tokens=5))


def test_a_decoder_of_the_start_is_kept(tmp_path: Path) -> None:
    tiny_decoder_model(3).save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    options, start = {"fgr": False, "mlm": False, "lm": True}, {"init_from": str(tmp_path), "cross_layers": 0}
    model, _ = built(recipe(options, **start, match_weight=0.5, ranking_rule="log_odds"))
    assert model.config.match_weight == 0.5
    assert model.likelihood is not None
    expected = tiny_decoder_model(3).likelihood
    assert expected is not None
    assert all(torch.equal(tensor, model.likelihood.state_dict()[key]) for key, tensor in expected.state_dict().items())
    with pytest.raises(UsageError, match=r"model\.decoder_layers=1: the weights of .* settle it, and theirs is 2"):
        built(recipe(options, **start, decoder_layers=1))


def test_a_decoder_beside_cross_encoders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"objectives\.lm trains a decoder that ranks.*model\.cross_layers=0"):
        built(recipe({"lm": True}, init_from=str(towers_alone(tmp_path)), cross_layers=1))


@pytest.mark.parametrize(
    "model", [{"vision": "a/b", "text": {"model_type": "bert"}}, {"vision": {}, "text": "a/b"}, {"vision": "a/b"}]
)
def test_a_recipe_with_one_source_and_one_shape_is_refused(model: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"'model\.text' = .*model\.vision and model\.text must both be"):
        recipe(**model)


@pytest.mark.parametrize("value", [5, None, "", ["a/b"]])
def test_a_recipe_names_a_tower_that_is_neither_source_nor_shape(value: Any) -> None:
    with pytest.raises(UsageError, match=r"'model\.vision' = .*a mapping with a model_type, or a folder or hub id"):
        recipe(vision=value)


def test_a_run_trains_from_two_towers(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = save_text_tower(tmp_path / "text", "roberta")
    towers = f"model.vision={clip}", f"model.text={text}", "model.max_text_tokens=24"
    command = command_line(monkeypatch, capfd)
    arguments = "pretrain", *tiny_recipe(tiny_corpus(tmp_path / "corpus")), *towers, "--out", tmp_path / "run"
    assert command(*arguments).code == 0
    assert load_model(tmp_path / "run")[0].config.text_config.model_type == "roberta"
    assert f"| started from | {clip.name} and {text.name} |" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_a_recipe_may_name_a_preset() -> None:
    model, processor = built(recipe(preset="r2d2-tiny", vocab_size=60, max_text_tokens=32))
    config, named = model.config, preset("r2d2-tiny")
    assert (config.embed_dim, config.cross_layers, config.image_size) == (256, 2, 224)
    assert config.vision_config.hidden_size == named.vision_config.hidden_size
    assert config.text_config.num_hidden_layers == named.text_config.num_hidden_layers
    assert config.text_config.vocab_size == len(processor.tokenizer)
    with pytest.raises(UsageError, match="no such preset"):
        built(recipe(preset="r2d2-huge"))


def test_the_image_tower_is_frozen_by_one_key() -> None:
    assert recipe(freeze={"image": 2, "text": "all"}).model.frozen() == {"image": 2, "text": "all"}
    assert recipe(freeze_image_tower=True, freeze={"text": 1}).model.frozen() == {"image": "all", "text": 1}
    assert recipe().model.frozen() == {}
    with pytest.raises(UsageError, match=r"freeze_image_tower and model\.freeze\.image say the same; give one"):
        recipe(freeze_image_tower=True, freeze={"image": "all"})
    for wrong in (0, -1, "some"):
        with pytest.raises(UsageError, match="freeze"):
            recipe(freeze={"image": wrong})


def resnet(**model: Any) -> PretrainRecipe:
    text = {"model_type": "bert"} | TOWER
    return recipe(vision={"model_type": "resnet", "image_size": 32, "embedding_size": 8} | STAGES, text=text, **model)


def test_batch_norm_is_trained_in_new_networks_alone(tmp_path: Path) -> None:
    model, processor = built(resnet())
    assert model.config.train_batch_norm
    assert not built(resnet(train_batch_norm=False))[0].config.train_batch_norm
    model.save_pretrained(tmp_path / "new")
    processor.save_pretrained(tmp_path / "new")
    start = {"init_from": str(tmp_path / "new")}
    values = {"data": {"folder": "x"}, "training": {"steps": 1}, "model": start}
    for given, trained in (({}, False), ({"train_batch_norm": True}, True)):
        again = check_recipe(PretrainRecipe, values | {"model": start | given}, "again.yaml")
        assert built(again)[0].config.train_batch_norm is trained


def test_batch_norm_that_there_is_not_is_not_trained() -> None:
    text = {"model_type": "bert"} | TOWER
    vision = {"model_type": "vit", "image_size": 32} | TOWER
    given = recipe(vision=vision, text=text, train_batch_norm=True)
    with pytest.raises(UsageError, match=r"'model\.train_batch_norm' would do nothing \(no tower has batch norm\)"):
        prepare_network(built(given)[0], given)


@pytest.mark.parametrize("key", ["grad_cache_chunk", "gradient_checkpointing"])
def test_batch_norm_is_not_trained_where_its_statistics_would_be_others(key: str) -> None:
    wrong = resnet()
    wrong = wrong.model_copy(update={"training": wrong.training.model_copy(update={key: 2})})
    with pytest.raises(UsageError, match=f"model.train_batch_norm: with training.{key} .* model.train_batch_norm=off"):
        prepare_network(built(wrong)[0], wrong)
    still = wrong.model_copy(update={"model": wrong.model.model_copy(update={"train_batch_norm": False})})
    prepare_network(built(still)[0], still)


def test_a_new_network_may_pool_by_mean_and_have_a_prefix() -> None:
    model, processor = built(resnet(text_pooling="mean", text_prefix="查询: "))
    assert (model.text_pooling, processor.text_prefix) == ("mean", "查询: ")
    assert processor.tokenizer.unk_token_id not in processor.texts(TEXTS)["input_ids"]
    assert not processor.maskable(processor.texts(TEXTS)["input_ids"])[:, 1].any()


def test_poolings_and_prefixes_of_a_start_are_settled(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "start")
    tiny_processor().save_pretrained(tmp_path / "start")
    settled = {"text_pooling": "mean", "text_prefix": "query: ", "image_pooling": "tower", "projection_hidden": 8}
    for key, value in settled.items():
        values = {
            "data": {"folder": "x"},
            "training": {"steps": 1},
            "model": {"init_from": str(tmp_path / "start"), key: value},
        }
        with pytest.raises(UsageError, match=f"model.{key}={value}: the weights of .* settle it"):
            built(check_recipe(PretrainRecipe, values, "start.yaml"))
