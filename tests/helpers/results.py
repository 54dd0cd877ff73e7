"""Results of models on sets, made up for tests."""

from __future__ import annotations

import torch

from ccmb.benchmark.evaluation.retrieval import retrieval_of_ranks
from ccmb.benchmark.evaluation.settings import Settings
from ccmb.benchmark.results.result import (
    Captioning,
    Classification,
    Data,
    Matching,
    Measured,
    Result,
)
from ccmb.inference.gallery import Gallery
from ccmb.inference.pair_scores import PairScores
from ccmb.inference.two_stage import Direction, Ranks
from ccmb.r2d2.towers.two_towers import TowerOutput
from ccmb.tasks.matching.metrics import matching_report

IMAGES = 200


def result(
    model: str,
    right: float,
    ranked: float | None = None,
    set_name: str = "mine",
    images: int = IMAGES,
    seed: int = 0,
    setting: str = "zero-shot",
    revision: str = "a" * 64,
) -> Result:
    """A result in which such shares of the queries find their answer first, by each stage; others far behind."""
    generator = torch.Generator().manual_seed(seed)
    image_of_text = torch.arange(images).repeat_interleave(5)

    def ranks(count: int) -> Ranks:
        luck = torch.rand(count, generator=generator)  # of one seed, the same queries are hard for all
        first, second = (None if share is None else 1 + 100 * (luck >= share).long() for share in (right, ranked))
        assert first is not None
        return Ranks(first, second, {} if second is None else {2: first, 8: second})

    ways: dict[Direction, Ranks] = {"text_to_image": ranks(5 * images), "image_to_text": ranks(images)}
    gallery = Gallery(_nothing(images), _nothing(5 * images), image_of_text)
    settings = Settings(depth=8, draws=100)
    return Result(
        key=model,
        model=Measured(name=model, kind="R2D2", fingerprint=model, context_length=24, stages=2 if ranked else 1),
        data=Data(name=set_name, split="test", revision=revision, images=images, texts=5 * images, unreadable=[]),
        setting=setting,  # type: ignore[arg-type]
        prompt_set=None,
        depth=8 if ranked else None,
        seed=0,
        draws=100,
        retrieval=retrieval_of_ranks(ways, gallery, settings),
        resampling_unit=image_of_text.tolist(),
        commit="abc",
        hardware={},
        seconds={},
        features_kept=False,
        finished="2026-01-01T00:00:00+00:00",
    )


def _nothing(count: int) -> TowerOutput:
    return TowerOutput(torch.empty(count, 1), torch.empty(count, 0, 0))


COUNT = 400


def around(section: str, value: Matching | Classification | Captioning, name: str, **changes: object) -> Result:
    """A result that holds one section."""
    values = {
        "key": name,
        "model": Measured(name=name, kind="R2D2", fingerprint=name, context_length=24, stages=2),
        "data": Data(name="mine", split="test", revision="a" * 64, images=COUNT, texts=COUNT, unreadable=[]),
        "setting": "zero-shot",
        "prompt_set": None,
        "depth": None,
        "seed": 0,
        "draws": 50,
        "resampling_unit": list(range(COUNT)),
        "commit": "abc",
        "hardware": {},
        "seconds": {},
        "features_kept": False,
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return Result.model_validate(values | {section: value} | changes)


def matching(model: str, strength: float, ranks: bool = True, seed: int = 0) -> Result:
    """Scores that are noise, the same for one seed, and so much of the label."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(COUNT) % 2
    noise = torch.randn(COUNT, generator=generator)
    heads = (noise + strength * (2 * label - 1))[:, None].expand(-1, 2)
    scores = PairScores(label, torch.arange(COUNT), noise + 0.2 * label, heads if ranks else None)
    by_stage = {"pre_ranking": scores.cosine} | ({"ranking": scores.score} if ranks else {})
    section = Matching(
        **matching_report(scores, 1.0, draws=50),
        labels=label.tolist(),
        scores={stage: values.tolist() for stage, values in by_stage.items()},  # type: ignore[misc]
    )
    measured = Measured(name=model, kind="R2D2", fingerprint=model, context_length=24, stages=2 if ranks else 1)
    return around("matching", section, model, model=measured)
