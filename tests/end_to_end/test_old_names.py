"""A run that an older version began, with other names of keys in its recipe, goes on as if it had never stopped."""

import signal
from functools import partial

import pytest

from ccmb.tasks.finetuning.recipe import FinetuneRecipe
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from tests.helpers.killing import die_after_logging, lines_of
from tests.helpers.old_names import rewrite_by_old_names
from tests.helpers.processes import ccmb
from tests.helpers.runs import tiny_corpus, tiny_recipe
from tests.helpers.tuning import arguments, save_pairs, save_start

EVERY_THIRD = "training.checkpoint_every=3"


def pretraining(folder):
    """The words of a command before `--out`, and some of the same in old names."""
    words = ["pretrain", *tiny_recipe(tiny_corpus(folder / "corpus"), steps=8), EVERY_THIRD]
    return [*words, "training.best=gcpr", "optimizer.warmup_start_factor=0.1", "data.augmentation.min_crop_scale=0.5"]


def fine_tuning(folder):
    start, data = save_start(folder / "start"), save_pairs(folder / "data", copies=2)
    few = arguments(data, training__steps=8, training__log_every=1, validation__every=3, validation__rerank_k=4)
    return ["finetune", "retrieval", *few, EVERY_THIRD, "--model", start]


OLD = {
    "training.batch_size": "training.batch",
    "optimizer.warmup_start_factor": "optimizer.warmup_from",
    "validation.rerank_k": "validation.depth",
    "data.augmentation.min_crop_scale": "data.augmentation.crop",
}


def in_old_names(words):
    parts = (str(word).partition("=") for word in words)
    return ["".join((OLD.get(key, key), equals, value)) for key, equals, value in parts]


@pytest.mark.parametrize(("command", "kind"), [(pretraining, PretrainRecipe), (fine_tuning, FinetuneRecipe)])
def test_a_run_with_old_names_goes_on_bit_for_bit(command, kind, tmp_path):
    words, whole = command(tmp_path), tmp_path / "whole"
    assert ccmb(*words, "--out", whole).code == 0
    for run, again in ((tmp_path / "by_new_names", words), (tmp_path / "by_old_names", in_old_names(words))):
        assert ccmb(*words, "--out", run, prepare=partial(die_after_logging, 5)).code == -signal.SIGKILL
        now = rewrite_by_old_names(kind, run / "recipe.yaml")
        ended = ccmb(*again, "--out", run)
        assert ended.code == 0, ended.err
        assert ("training.batch is now training.batch_size" in ended.err) == (again is not words)
        assert (run / "recipe.yaml").read_text() == now
        assert lines_of(run) == lines_of(whole)
        for name in ("model/model.safetensors", "recipe.yaml", "checkpoints/best.json"):
            assert (run / name).read_bytes() == (whole / name).read_bytes(), name
        rewrite_by_old_names(kind, run / "recipe.yaml")
        other = ccmb(*words, "training.seed=9", "--out", run)
        assert other.code == 1
        assert "holds a run of another recipe" in other.err
