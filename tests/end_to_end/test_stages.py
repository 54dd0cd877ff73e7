"""Two processes train in stages as one does, replicated or sharded, also where they are killed between two stages."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ccmb.core.files import read_json_lines
from ccmb.tasks.pretraining import stages
from ccmb.tasks.pretraining.run import pretrain
from tests.helpers.exact import PROOFS
from tests.helpers.processes import ccmb
from tests.helpers.runs import tiny_corpus
from tests.helpers.staged import STEPS, staged_recipe, staged_words

pytestmark = PROOFS

# Dropout is each process's own, and a share of the rows would be another share.
COMPARABLE = [
    "objectives.fgr.batch_share=1.0",
    "model.text.hidden_dropout_prob=0.0",
    "model.text.attention_probs_dropout_prob=0.0",
    "optimizer.warmup_steps=1",
]


def die_at_the_boundary() -> None:
    """From here on the process dies where the second stage begins."""
    stages._next_network = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_end_where_one_does(strategy: str, corpus: Path, tmp_path: Path) -> None:
    one, two, changes = tmp_path / "one", tmp_path / "two", [*COMPARABLE, f"training.parallel={strategy}"]
    pretrain(staged_recipe(corpus, *changes), one)
    words = ["pretrain", *staged_words(corpus, *changes), "--out", str(two)]
    if strategy == "ddp":
        assert ccmb(*words, prepare=die_at_the_boundary, processes=2).code == -signal.SIGKILL
        assert not (two / "stages" / "2-heads").exists()
    ended = ccmb(*words, processes=2)
    assert ended.code == 0, ended.err
    for stage in ("stages/1-towers", "stages/2-heads", "."):
        weights, others = (load_file(out / stage / "model" / "model.safetensors") for out in (one, two))
        for name, tensor in weights.items():
            away = float((others[name] - tensor).abs().max())
            assert away < 1e-8, f"{stage}: {name}: off by {away}"
    lines = [line for _, line in read_json_lines(two / "metrics.jsonl")]
    assert [(line["step"], line["stage"]) for line in lines] == [
        (step, "towers" if step <= STEPS else "heads") for step in range(1, 2 * STEPS + 1)
    ]
