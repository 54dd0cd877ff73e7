"""The pipeline over exports for ONNX Runtime: what the network in torch says, within what float32 rounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccmb.core.errors import UsageError
from ccmb.inference.pipeline import Pipeline
from ccmb.inference.scoring import PairScore
from ccmb.r2d2.folders.match_temperature import store_match_temperature
from tests.helpers.exact import TINY_ERROR
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytest.importorskip("onnxruntime", reason="needs the extra fast")

IMAGES = tiny_images(4)
PAIRS = [(TEXTS[text], IMAGES[image]) for text, image in ((0, 1), (3, 0), (0, 0), (2, 3))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(match_temperature=2.0).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def assert_near(one: PairScore, other: PairScore) -> None:
    for name in ("cosine", "match_score", "probability", "score"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=TINY_ERROR)


def test_an_export_says_what_the_network_says(folder: Path, tmp_path: Path) -> None:
    from ccmb.r2d2.onnx.export import export_model

    export_model(folder, tmp_path / "export", "fp32")
    plain, exported = (Pipeline.from_pretrained(name) for name in (folder, tmp_path / "export"))
    for one, other in zip(plain.score(PAIRS), exported.score(PAIRS, batch_size=3), strict=True):
        assert_near(one, other)
    hits, others = (pipeline.rerank(TEXTS[1], IMAGES) for pipeline in (plain, exported))
    assert [hit.index for hit in hits] == [hit.index for hit in others]
    for one, other in zip(hits, others, strict=True):
        assert_near(one, other)


def test_a_fast_pipeline_knows_a_calibration_that_is_younger_than_its_export(folder: Path) -> None:
    store_match_temperature(folder, 1.0)
    assert Pipeline.from_pretrained(folder, fast=True).score(PAIRS)[0].probability is None
    made = (folder / "fast" / "export.json").read_bytes()
    store_match_temperature(folder, 3.0)
    pipeline = Pipeline.from_pretrained(folder, fast=True)
    assert pipeline.model.config.match_temperature == 3.0
    assert pipeline.score(PAIRS)[0].probability is not None
    assert (folder / "fast" / "export.json").read_bytes() == made


def test_an_export_computes_on_the_cpu_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("ccmb.inference.pipeline.choose_device", lambda *_: torch.device("cuda"))
    with pytest.raises(UsageError, match="device=cuda is of networks in torch; an export computes on the CPU"):
        Pipeline.from_pretrained(folder, fast=True, device="cuda")
