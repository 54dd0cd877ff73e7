"""Pre-training that is killed and started again ends as if it had never been."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from ccmb import cli
from ccmb.files import read_json_lines
from ccmb.training.meters import MEASURED
from runs import TRAIN, command_line, damage_pictures, tiny_corpus, tiny_recipe

# The command itself, but it dies at once after logging the seventh step: the newest checkpoint is that of the sixth.
KILLED = """
import os, signal, sys
from ccmb import cli
from ccmb.training.trainer import Trainer

log = Trainer._log

def log_and_die(self, line):
    log(self, line)
    if self.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)

Trainer._log = log_and_die
cli.main()
"""


def ccmb(program: list[str], *arguments: object) -> int:
    """Exit code of a fresh process."""
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    # No pipes: the reading process of a killed run outlives it for a moment and would hold them open.
    done = subprocess.run([sys.executable, *program, *map(str, arguments)], env=environment, stdout=subprocess.DEVNULL)
    return done.returncode


def lines_of(run: Path) -> list[dict[str, object]]:
    """The log without what depends on the clock."""
    return [
        {key: value for key, value in line.items() if key not in MEASURED}
        for _, line in read_json_lines(run / "metrics.jsonl")
    ]


def test_killed_in_mid_training_the_same_command_ends_in_the_same_weights_and_losses(tmp_path, monkeypatch, capfd):
    corpus = tiny_corpus(tmp_path / "corpus")
    damage_pictures(corpus, [f"train-{number:06d}.jpg" for number in range(0, TRAIN, 3)])
    # All objectives from the middle on, with dropout and random crops: whatever chance there is must repeat.
    changes = ["data.augmentation.crop=0.5", "data.workers=1", "model.cross_dropout=0.1", "training.checkpoint_every=3"]
    pretrain = ["pretrain", *tiny_recipe(corpus, steps=8), *changes, "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    assert ccmb(["-c", KILLED], *pretrain, killed) == -signal.SIGKILL
    assert [line["step"] for line in lines_of(killed)] == list(range(1, 8))
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["step-3", "step-6"]
    assert not (killed / "model").exists()

    assert ccmb(["-m", "ccmb"], *pretrain, killed) == 0
    assert command_line(monkeypatch, capfd)(*pretrain, whole).code == 0
    assert lines_of(killed) == lines_of(whole)
    assert {"gcpr", "fgr", "mlm", "tgd", "fgd"} <= lines_of(whole)[-1].keys()
    for name in ("model/model.safetensors", "model/tokenizer.json", "recipe.yaml", "unreadable.txt"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
