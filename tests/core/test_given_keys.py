"""Keys of recipes that would do nothing are refused by name; those that can be obeyed are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ccmb.core.config.recipe_files import RECIPES, find_recipe, load_recipe, save_recipe
from ccmb.core.errors import CcmbError, UsageError
from ccmb.r2d2.generative.captioner import R2D2Captioner
from ccmb.r2d2.loading import load_model
from ccmb.tasks.finetuning.recipe import FINETUNING, FinetuneRecipe
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import build_network, save_model
from ccmb.tasks.registry import finetuner_of
from ccmb.training.model_selection import read_best
from ccmb.training.recipe import TrainingRecipe
from tests.helpers.runs import command_line, tiny_corpus, tiny_recipe
from tests.helpers.sources import save_chinese_clip
from tests.helpers.tiny import tiny_model, tiny_processor
from tests.helpers.tuning import recipe_of, save_pairs, save_start, tuned

pytestmark = pytest.mark.usefixtures("lines")

BASE = "data.folder=corpus"


def pretraining(*overrides: str, name: str = "flickr8k-cn") -> PretrainRecipe:
    return load_recipe(PretrainRecipe, find_recipe(name), overrides)


def fine_tuning(name: str, *overrides: str) -> FinetuneRecipe:
    return load_recipe(FinetuneRecipe, find_recipe(name, FINETUNING), ["data.folder=corpus", *overrides])


def refused(load: Any, *arguments: str) -> str:
    with pytest.raises(UsageError) as error:
        load(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data.streams=2"], "data.streams"),
        (["data.shuffle_buffer=1000"], "data.shuffle_buffer"),  # the default is given all the same
        (["data.samples_per_epoch=9"], "data.samples_per_epoch"),
        (["data.folder=", "data.shards=x.tar", "data.group_start=0.5"], "data.group_start"),
        (["data.folder=", "data.shards=x.tar", "data.split=val"], "data.split"),
        (["data.dataset=muge", "data.pairs=x.jsonl"], "data.pairs"),
        (["optimizer.schedule=triangular", "optimizer.lr_decay_stages=3"], "optimizer.lr_decay_stages"),
        (["optimizer.schedule=triangular", "optimizer.warmup_start_factor=0.1"], "optimizer.warmup_start_factor"),
        (["objectives.tgd=off", "objectives.tgd.queue_size=9", "objectives.tgd.weight=0"], "objectives.tgd.queue_size"),
        (
            ["objectives.mlm=off", "objectives.fgd=off", "objectives.mlm={weight: 0, probability: 0.2}"],
            "objectives.mlm.p",
        ),
        (["objectives.mlm=off", "objectives.fgr.enhanced_training=true"], "objectives.fgr.enhanced_training"),
        (["objectives.tgd=off", "objectives.fgd=off", "objectives.ema_decay=0.9"], "objectives.ema_decay"),
        (["objectives.fgr.start_at=0.5", "objectives.fgr.harden_until=0.4"], "objectives.fgr.harden_until"),
        (["model.preset=r2d2-tiny", "model.cross_layers=1"], "model.cross_layers"),
        (["model.preset=r2d2-tiny", "model.embed_dim=768"], "model.embed_dim"),
        (["model.init_from=runs/x", "model.vocab_size=99"], "model.vocab_size"),
        (["model.init_from=runs/x", "model.preset=r2d2-tiny"], "model.preset"),
        (["model.vision=a/b", "model.text=c/d", "model.vocab_size=99"], "model.vocab_size"),
        (["model.cross_layers=0", "optimizer.cross_lr=1e-3"], "optimizer.cross_lr"),
        (["model.cross_layers=0", "model.cross_dropout=0.3"], "model.cross_dropout"),
        (["model.cross_layers=0", "model.standardize_states=true"], "model.standardize_states"),
        (["objectives.fgr.negatives=all", "objectives.fgr.hardness=0.5"], "objectives.fgr.hardness"),
        (["objectives.fgr.negatives=all", "objectives.fgr.batch_share=0.5"], "objectives.fgr.batch_share"),
        (["data.mining=on", "data.group_start=0.5"], "data.group_start"),
        (["model.freeze.image=all", "optimizer.image_lr=1e-3"], "optimizer.image_lr"),
        (["model.freeze_image_tower=true", "optimizer.image_lr=1e-3"], "optimizer.image_lr"),
        (["model.freeze.text=all", "optimizer.text_lr=1e-3"], "optimizer.text_lr"),
        (["model.freeze={image: all, text: all}", "optimizer.layer_decay=0.9"], "optimizer.layer_decay"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_of_pre_training_that_would_do_nothing_is_refused_by_name(overrides: list[str], key: str) -> None:
    message = refused(pretraining, *overrides)
    assert message.startswith("override '")
    assert f"'{key}" in message
    assert "would do nothing" in message


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("retrieval", "matching.loss=official"),
        ("retrieval", "captioning.max_length=9"),
        ("retrieval", "generation.sampling_steps=9"),
        ("retrieval", "data.streams=9"),
        ("matching", "objectives.fgr.weight=2"),
        ("matching", "objectives.gcpr.ignore_swapped=true"),
        ("matching", "validation.rerank_k=9"),
        ("matching", "data.mining.group=4"),
        ("captioning", "data.mining=on"),
        ("generation", "training.frozen_states=on"),
        ("matching", "data.fields=[captions]"),
        ("matching", "training.peak_tflops=9"),
        ("captioning", "validation.rerank_k=9"),
        ("captioning", "generation.ema_decay=0.9"),
        ("generation", "training.grad_cache_chunk=4"),
        ("generation", "objectives.ema_decay=0.9"),
        ("generation", "validation.rerank_k=9"),
        ("generation", "optimizer.layer_decay=0.9"),
        ("generation", "training.model_ema_decay=0.99"),
        ("generation", "model.lora.rank=4"),
        ("generation", "optimizer.text_lr=1e-4"),
        ("muge", "validation.fields=[texts]"),
    ],
)
def test_a_key_of_another_task_is_refused_by_name(name: str, override: str) -> None:
    key = override.partition("=")[0]
    assert refused(fine_tuning, name, override).startswith(f"override '{override}': '{key}' would do nothing")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["generation.pipeline=x/y", "generation.patch_size=2"], "generation.patch_size"),
        (
            ["objectives.gcpr=off", "objectives.fgr=off", "captioning.owns_image_tower=true"],
            "captioning.owns_image_tower",
        ),
        (["validation.split=", "validation.every=9"], "validation.every"),
        (["validation.split=", "validation.images=9"], "validation.images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keys_that_another_key_leaves_without_use_are_refused(overrides: list[str], key: str) -> None:
    name = "generation" if "generation" in key else "captioning"
    message = refused(fine_tuning, name, *overrides)
    assert f"'{key}" in message
    assert "would do nothing" in message


def test_a_file_that_gives_a_key_without_use_is_refused_and_one_that_gives_the_default_is_not(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("data: {folder: x, streams: 2}\ntraining: {steps: 1}\n")
    assert refused(load_recipe, PretrainRecipe, path).startswith(f"{path}: 'data.streams' would do nothing")
    path.write_text("data: {folder: x, streams: 4}\ntraining: {steps: 1}\n")
    load_recipe(PretrainRecipe, path)


def test_what_a_file_says_gives_way_to_an_override_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = pretraining("data.folder=", "data.shards=x.tar", "model.cross_layers=0", "objectives.fgd=off")
    assert recipe.data.pairs == "pairs.jsonl"
    assert (recipe.model.ranking_rule, recipe.optimizer.cross_lr) == ("sum", None)
    message = capsys.readouterr().err
    assert message.startswith("ccmb: flickr8k-cn.yaml: data.pairs, model.ranking_rule, optimizer.cross_lr give way to ")
    assert "data.shards=x.tar, model.cross_layers=0" in message


def test_every_shipped_recipe_and_every_resolved_one_is_its_own_recipe_again(tmp_path: Path) -> None:
    for kind, folder in ((PretrainRecipe, RECIPES), (FinetuneRecipe, FINETUNING)):
        for path in sorted(folder.glob("*.yaml")):
            in_stages = "\nstages:" in path.read_text()  # whose lengths are the stages' own
            length = [] if in_stages else ["training.steps=3", "training.epochs="]
            recipe = load_recipe(kind, path, ["data.folder=x", *length])
            save_recipe(recipe, tmp_path / path.name)
            assert load_recipe(kind, tmp_path / path.name) == recipe


# From an R2D2.


def started(start: Path, *overrides: str) -> Any:
    recipe = pretraining(f"model.init_from={start}", *overrides)
    return build_network(recipe, ())


def test_a_recipe_that_starts_from_an_r2d2_obeys_what_it_can_and_refuses_the_rest(tmp_path: Path) -> None:
    start = save_start(tmp_path / "start")
    for override, its in {"cross_layers=99": "2", "embed_dim=128": "16", "initial_temperature=0.1": "0.07"}.items():
        message = refused(started, start, f"model.{override}")
        assert message == f"model.{override}: the weights of {start} settle it, and theirs is {its}; leave it out"
    model, processor = started(
        start, "model.cross_layers=2", "model.embed_dim=16", "model.max_text_tokens=20", "model.cross_dropout=0.25",
        "model.ranking_rule=log_odds", "model.temperature_min=0.02",
    )  # fmt: skip
    assert (model.config.max_text_tokens, processor.max_text_tokens) == (20, 20)
    assert (model.config.ranking_rule, model.config.temperature_min) == ("log_odds", 0.02)
    assert {module.p for module in model.text_image_encoder.modules() if hasattr(module, "p")} == {0.25}
    save_model(tmp_path / "saved", model, processor)
    assert load_model(tmp_path / "saved")[1].max_text_tokens == 20
    kept, its = started(start)  # what the shipped recipe says of its own network gives way
    assert (kept.config.max_text_tokens, its.max_text_tokens, kept.config.ranking_rule) == (24, 24, "sum")


def test_ccmb_pretrain_refuses_what_a_start_settles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    start, corpus = save_start(tmp_path / "start"), tiny_corpus(tmp_path / "corpus")
    command = command_line(monkeypatch, capfd)
    run_overrides = [one for one in tiny_recipe(corpus, 1) if not one.startswith("model.")]
    arguments = "pretrain", *run_overrides, f"model.init_from={start}", "--out", tmp_path / "run"
    outcome = command(*arguments, "model.cross_layers=99")
    assert outcome.code == 2
    assert (
        f"ccmb: model.cross_layers=99: the weights of {start} settle it, and theirs is 2; leave it out" in outcome.err
    )
    assert not (tmp_path / "run").exists()
    assert command(*arguments).code == 0
    again = command("pretrain", tmp_path / "run" / "recipe.yaml", "--out", tmp_path / "again")
    assert again.code == 0, again


def test_a_chinese_clip_settles_its_width_and_takes_the_rest(tmp_path: Path) -> None:
    start = save_chinese_clip(tmp_path / "clip")
    assert "model.embed_dim=16: the weights of" in refused(started, start, "model.embed_dim=16")
    model, _ = started(start, "model.cross_layers=1", "model.max_text_tokens=30", "objectives.mlm=off")
    assert (model.config.embed_dim, model.config.cross_layers, model.config.max_text_tokens) == (12, 1, 30)


def test_a_captioner_to_start_from_settles_its_decoder(tmp_path: Path) -> None:
    captioner = R2D2Captioner.from_r2d2(tiny_model(), tiny_processor())
    save_model(tmp_path / "start", captioner, tiny_processor())
    family = finetuner_of("captioning")
    for override, message in (
        ("captioning.text_layers=0", "captioning.text_layers=0: the decoder of"),
        ("model.max_text_tokens=20", "model.max_text_tokens: "),
        ("model.cross_layers=3", "theirs is 2"),
    ):
        recipe = fine_tuning("captioning", f"model.init_from={tmp_path / 'start'}", override)
        assert message in refused(family.network, recipe)
    recipe = fine_tuning("captioning", f"model.init_from={tmp_path / 'start'}", "model.ranking_rule=log_odds")
    assert family.network(recipe)[0].config.ranking_rule == "log_odds"


# The best checkpoint.


@pytest.mark.parametrize(
    ("name", "own", "others"),
    [
        ("matching", ["matching", "match_accuracy", "val_auc"], ["fgr", "temperature", "val_mean_recall"]),
        ("captioning", ["captioning", "fgr", "val_CIDEr-D"], ["matching", "mlm", "val_auc"]),
        ("generation", ["generation"], ["fgr", "temperature"]),
        ("retrieval", ["fgr", "temperature", "val_mean_recall"], ["matching", "captioning", "mlm"]),
    ],
)
def test_the_best_checkpoint_is_by_a_metric_that_the_task_logs(name: str, own: list[str], others: list[str]) -> None:
    from ccmb.tasks.pretraining.starting import check_best
    from ccmb.training.validation import PREFIX

    family = finetuner_of(name)
    logged = [*family.logged(fine_tuning(name)), *(PREFIX + metric for metric in family.metrics)]
    for metric in own:
        check_best(fine_tuning(name, f"training.best={metric}"), logged)
    for metric in others:
        with pytest.raises(UsageError, match=rf"training\.best\.metric={metric}: not in the log of this run"):
            check_best(fine_tuning(name, f"training.best={metric}"), logged)


@pytest.mark.parametrize(
    ("metric", "mode"),
    [("gcpr", "min"), ("loss", "min"), ("val_mean_recall", "max"), ("val_auc", "max"), ("match_accuracy", "max")],
)
def test_which_way_is_better_follows_from_the_metric(metric: str, mode: str) -> None:
    other = {"min": "max", "max": "min"}[mode]
    assert TrainingRecipe(steps=1, best=metric).best.mode == mode  # type: ignore[arg-type, union-attr]
    assert TrainingRecipe(steps=1, best={"metric": metric}).best.mode == mode  # type: ignore[arg-type, union-attr]
    given = TrainingRecipe(steps=1, best={"metric": metric, "mode": other})  # type: ignore[arg-type]
    assert given.best.mode == other  # type: ignore[union-attr]


def test_a_best_step_that_validation_did_not_choose_is_not_said_to_be_the_model(tmp_path: Path) -> None:
    start, data = save_start(tmp_path / "start"), save_pairs(tmp_path / "data", copies=2)
    report = tuned(
        start, data, tmp_path / "run", training__best="{metric: gcpr, mode: max}", training__steps=6,
        training__checkpoint_every=2, validation__every=2,
    )  # fmt: skip
    marked = read_best(tmp_path / "run" / "checkpoints")
    assert marked is not None
    assert marked["figure"] == "gcpr"
    assert report["chosen"] is None  # the model is the last step's
    assert "the best on validation" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_recipe_that_names_no_start_says_so(tmp_path: Path) -> None:
    with pytest.raises(CcmbError, match="no such model folder"):
        build_network(recipe_of(tmp_path / "nowhere", tmp_path), ())
