"""Pre-training that is killed and started again ends as if it had never been."""

import signal
from functools import partial

from tests.helpers.killing import die_after_logging, lines_of
from tests.helpers.processes import ccmb
from tests.helpers.runs import TRAIN, command_line, damage_images, tiny_corpus, tiny_recipe


def test_killed_in_mid_training_the_same_command_ends_in_the_same_weights_and_losses(tmp_path, monkeypatch, capfd):
    corpus = tiny_corpus(tmp_path / "corpus")
    damage_images(corpus, [f"train-{number:06d}.jpg" for number in range(0, TRAIN, 3)])
    # All objectives from the middle on, with dropout and random crops: whatever chance there is must repeat.
    changes = [
        "data.augmentation.min_crop_scale=0.5",
        "data.num_workers=1",
        "model.cross_dropout=0.1",
        "training.checkpoint_every=3",
    ]
    pretrain = ["pretrain", *tiny_recipe(corpus, steps=8), *changes, "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    # The newest checkpoint is then that of the sixth step.
    assert ccmb(*pretrain, killed, prepare=partial(die_after_logging, 7)).code == -signal.SIGKILL
    assert [line["step"] for line in lines_of(killed)] == list(range(1, 8))
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["step-3", "step-6"]
    assert not (killed / "model").exists()

    assert ccmb(*pretrain, killed).code == 0
    assert command_line(monkeypatch, capfd)(*pretrain, whole).code == 0
    assert lines_of(killed) == lines_of(whole)
    assert {"gcpr", "fgr", "mlm", "tgd", "fgd"} <= lines_of(whole)[-1].keys()
    for name in ("model/model.safetensors", "model/tokenizer.json", "recipe.yaml", "unreadable.txt"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
