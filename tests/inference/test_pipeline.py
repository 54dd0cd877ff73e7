"""One way to use a model: each call against a plain loop, over a network in torch, an export, and towers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import ccmb
from ccmb.core.choices import RankingRule
from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference.gallery import Gallery
from ccmb.inference.items import EncodedItems
from ccmb.inference.pipeline import ImageHit, Pipeline
from ccmb.inference.scoring import PairScore, StageScores
from ccmb.inference.stages import CosineScorer, ImageLoader, RankOptions
from ccmb.inference.user_images import open_image
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput
from tests.helpers.exact import PROOFS, assert_same, same
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = PROOFS

IMAGES = tiny_images(6)
PAIRS = [(TEXTS[text], IMAGES[image]) for text, image in ((0, 1), (3, 0), (0, 0), (2, 5), (3, 0), (1, 4), (0, 3))]


def plain_scores(model: R2D2Model, text: str, image: Any, rule: RankingRule = "sum") -> PairScore:
    """Both stages on one pair, which nothing is batched with."""
    processor = tiny_processor()
    with torch.inference_mode():
        of_image = model.encode_image(processor.images([image]))
        of_text = model.encode_text(**processor.texts([text]))
        cosine = float(of_image.embed[0] @ of_text.embed[0])
        if not model.can_rank:
            return PairScore(cosine, None, None, cosine)
        ranked = model.rank(of_image, of_text, torch.tensor([0]), torch.tensor([0]))
    heads = ranked.logits_text_image[0], ranked.logits_image_text[0]
    temperature = model.config.match_temperature
    probability = float(sum((head / temperature).softmax(0)[1] for head in heads) / 2)
    match = float(ranked.score[0])
    score = cosine + match
    if rule == "log_odds":
        score = cosine / float(model.temperature.detach()) + sum(float(head[1] - head[0]) for head in heads)
    return PairScore(cosine, match, probability if temperature != 1 else None, score)


def values(score: PairScore) -> tuple[float | None, ...]:
    return score.cosine, score.match_score, score.probability, score.score


def assert_scores(scores: Sequence[PairScore], expected: Sequence[PairScore]) -> None:
    for one, other in zip(scores, expected, strict=True):
        for value, expected_value in zip(values(one), values(other), strict=True):
            assert value == same(expected_value)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    names = [tmp_path / f"{number}.png" for number in range(len(IMAGES))]
    for name, image in zip(names, IMAGES, strict=True):
        image.save(name)
    return names


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_images_and_texts_are_encoded_as_each_would_be_alone(paths: list[Path], batch_size: int) -> None:
    model, processor = tiny_model(), tiny_processor()
    pipeline = Pipeline.from_model(model, processor)
    images = pipeline.encode_images([*paths[:3], str(paths[3]), paths[4].read_bytes(), IMAGES[5]], batch_size)
    texts = pipeline.encode_texts(TEXTS, batch_size)
    with torch.inference_mode():
        for row, image in enumerate(IMAGES):
            alone = model.encode_image(processor.images([image]))
            assert_same(images.embed[row], alone.embed[0])
            assert_same(images.states[row], alone.states[0])
        for row, text in enumerate(TEXTS):
            alone = model.encode_text(**processor.texts([text]))
            length = alone.states.shape[1]
            assert_same(texts.embed[row], alone.embed[0])
            assert_same(texts.states[row, :length], alone.states[0])
            assert texts.mask is not None
            assert int(texts.mask[row].sum()) == length
    assert_same(images.embed.norm(dim=1), torch.ones(len(IMAGES)))
    assert (images.embed.device.type, model.training) == ("cpu", False)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("changes", [{}, {"match_temperature": 2.5}, {"cross_layers": 0}])
def test_pairs_are_scored_as_each_would_be_alone(changes: dict[str, Any], batch_size: int) -> None:
    model = tiny_model(**changes)
    scores = Pipeline.from_model(model, tiny_processor()).score(PAIRS, batch_size)
    assert_scores(scores, [plain_scores(model, *pair) for pair in PAIRS])
    assert Pipeline.from_model(model, tiny_processor()).score([]) == []


@dataclass
class Counted:
    """An encoder that counts what it is given."""

    encoder: Any
    images: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def prepare(self, image: Any) -> Any:
        return self.encoder.prepare(image)

    def encode_prepared(self, images: Sequence[Any]) -> TowerOutput:
        self.images += images
        return self.encoder.encode_prepared(images)

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self.encode_prepared([self.prepare(load(name)) for name in names])

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        self.texts += texts
        return self.encoder.encode_texts(texts)


def test_each_text_and_each_image_is_encoded_once(paths: list[Path]) -> None:
    pipeline = Pipeline.from_model(tiny_model(), tiny_processor())
    counted = Counted(pipeline.encoder)
    pairs = [(TEXTS[0], paths[0]), (TEXTS[1], str(paths[0])), (TEXTS[0], IMAGES[1]), (TEXTS[1], IMAGES[1])]
    scores = Pipeline(counted, pipeline.scorer).score(pairs, batch_size=1)
    assert (len(counted.images), counted.texts) == (2, list(TEXTS[:2]))
    assert_scores(scores, pipeline.score(pairs))


@pytest.mark.parametrize("rule", ["sum", "log_odds"])
def test_reranking_orders_by_the_rule_that_is_asked_for(rule: RankingRule) -> None:
    model = tiny_model(match_temperature=2.0)
    pipeline = Pipeline.from_model(model, tiny_processor(), RankOptions(ranking_rule=rule))
    plain = [plain_scores(model, TEXTS[0], image, rule) for image in IMAGES]
    order = sorted(range(len(IMAGES)), key=lambda index: -plain[index].score)
    hits = pipeline.rerank(f" {TEXTS[0]} ", IMAGES, batch_size=2)  # which is cleaned
    assert [hit.index for hit in hits] == order
    assert all(hit.image is IMAGES[hit.index] for hit in hits)
    assert_scores(hits, [plain[index] for index in order])
    few = pipeline.rerank(TEXTS[0], IMAGES, top_k=2)
    assert [hit.index for hit in few] == order[:2]
    assert_scores(few, hits[:2])


@pytest.mark.parametrize("rerank_k", [1, 3, 64])
def test_a_search_ranks_the_best_by_cosine_and_the_others_follow(rerank_k: int) -> None:
    model = tiny_model()
    pipeline = Pipeline.from_model(model, tiny_processor())
    plain = [plain_scores(model, TEXTS[2], image) for image in IMAGES]
    first = sorted(range(len(IMAGES)), key=lambda index: -plain[index].cosine)
    order = sorted(first[:rerank_k], key=lambda index: -plain[index].score) + first[rerank_k:]
    hits = pipeline.search(TEXTS[2], IMAGES, top_k=5, rerank_k=rerank_k)
    assert [hit.index for hit in hits] == order[:5]
    for rank, hit in enumerate(hits):
        ranked = plain[hit.index]
        expected = ranked if rank < rerank_k else PairScore(ranked.cosine, None, None, ranked.cosine)
        assert_scores([hit], [expected])

    encoded = pipeline.encode_images(IMAGES)
    texts = pipeline.encode_texts(TEXTS[:1])
    for given in (encoded, Gallery(encoded, texts, torch.tensor([0]))):
        again = pipeline.search(TEXTS[2], given, top_k=5, rerank_k=rerank_k)
        assert [(hit.index, hit.image) for hit in again] == [(index, None) for index in order[:5]]
        assert_scores(again, hits)


def test_a_cascade_orders_what_it_keeps_exactly_and_the_rest_behind() -> None:
    model = tiny_model()
    pipeline = Pipeline.from_model(model, tiny_processor(), RankOptions(cascade=2))
    plain = [plain_scores(model, TEXTS[0], image) for image in IMAGES]
    hits = pipeline.rerank(TEXTS[0], IMAGES)
    assert sorted(hit.index for hit in hits) == list(range(len(IMAGES)))
    kept = [hit.index for hit in hits[:2]]
    assert kept == sorted(kept, key=lambda index: -plain[index].score)
    assert_scores(hits[:2], [plain[index] for index in kept])
    assert all((hit.match_score, hit.score) == (None, hit.cosine) for hit in hits[2:])


def test_towers_alone_order_by_cosine() -> None:
    model = tiny_model(cross_layers=0)
    pipeline = Pipeline.from_model(model, tiny_processor())
    hits = pipeline.rerank(TEXTS[0], IMAGES)
    assert hits == pipeline.search(TEXTS[0], IMAGES)
    assert [hit.score for hit in hits] == sorted((hit.cosine for hit in hits), reverse=True)
    assert {(hit.match_score, hit.probability) for hit in hits} == {(None, None)}


class Colours:
    """Two towers of another kind: the mean colour, and the length of a text."""

    def prepare(self, image: Any) -> Any:
        return open_image(image).resize((1, 1)).getpixel((0, 0))

    def encode_prepared(self, images: Sequence[Any]) -> TowerOutput:
        return self._output(torch.tensor(images, dtype=torch.get_default_dtype()))

    def encode_images(self, names: Sequence[Any], load: ImageLoader) -> TowerOutput:
        return self.encode_prepared([self.prepare(load(name)) for name in names])

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        return self._output(torch.tensor([[len(text), 1.0, 2.0] for text in texts]))

    @staticmethod
    def _output(features_B3: Tensor) -> TowerOutput:
        return TowerOutput(features_B3 / features_B3.norm(dim=1, keepdim=True), torch.empty(len(features_B3), 0, 0))


class Backwards(CosineScorer):
    """A ranker of another kind, which turns the order round."""

    @property
    def can_rank(self) -> bool:
        return True

    def score_pairs(
        self,
        images: EncodedItems,
        texts: EncodedItems,
        image_index_N: Tensor,
        text_index_N: Tensor,
        cosine_N: Tensor | None = None,
    ) -> StageScores:
        cosine_N = super().score_pairs(images, texts, image_index_N, text_index_N, cosine_N).cosine
        return StageScores(cosine_N, None, -cosine_N)


def test_any_two_towers_and_any_ranker_can_stand_behind_it(paths: list[Path]) -> None:
    first = Pipeline(Colours(), CosineScorer(), "colours")
    hits = first.search("红", paths, top_k=6)
    assert [hit.cosine for hit in hits] == sorted((hit.cosine for hit in hits), reverse=True)
    assert hits[0].cosine == same(first.score([("红", hits[0].image)])[0].cosine)  # type: ignore[list-item]
    second = Pipeline(Colours(), Backwards(), "colours")
    assert [hit.index for hit in second.search("红", paths, top_k=6, rerank_k=4)] == [
        *[hit.index for hit in hits[:4]][::-1], *[hit.index for hit in hits[4:]],
    ]  # fmt: skip
    with pytest.raises(CcmbError, match="colours: no R2D2"):
        first.model  # noqa: B018
    with pytest.raises(CcmbError, match=r"none\.png: no such image"):
        first.encode_images([paths[0], paths[0].parent / "none.png"])
    with pytest.raises(CcmbError, match="a ndarray: this model reads paths"):
        first.encode_images([torch.zeros(8, 8, 3).numpy()])


def test_images_that_cannot_be_read_are_named(paths: list[Path], tmp_path: Path) -> None:
    pipeline = Pipeline.from_model(tiny_model(), tiny_processor())
    bad = [tmp_path / f"gone{number}.jpg" for number in range(5)]
    with pytest.raises(CcmbError, match=r"^.*gone0\.jpg: no such image$"):
        pipeline.encode_images([paths[0], bad[0]])
    with pytest.raises(CcmbError, match=r"^2 of 4 images cannot be read: .*gone0\.jpg: .*; .*gone1\.jpg: ") as raised:
        pipeline.rerank(TEXTS[0], [bad[0], *paths[:2], bad[1]], batch_size=1)
    assert "\n" not in str(raised.value)
    with pytest.raises(CcmbError, match=r"^5 of 6 images .*gone2\.jpg: [^;]*; and 2 more$"):
        pipeline.search(TEXTS[0], [*bad, paths[0]])
    with pytest.raises(CcmbError, match=r"gone0\.jpg: no such image"):
        pipeline.score([(TEXTS[0], paths[0]), (TEXTS[0], bad[0])])


def test_what_cannot_be_used_is_refused_by_name(paths: list[Path]) -> None:
    pipeline = Pipeline.from_model(tiny_model(), tiny_processor())
    for call, message in (
        (lambda: pipeline.encode_texts([]), "there are no texts to encode"),
        (lambda: pipeline.encode_images([]), "there are no images to encode"),
        (lambda: pipeline.encode_texts("红船"), "texts: give a list"),
        (lambda: pipeline.encode_images(str(paths[0])), "images: give a list"),
        (lambda: pipeline.encode_images(paths, batch_size=0), "batch_size is 0; give at least 1"),
        (lambda: pipeline.search(" ", paths), "the text to search for is empty"),
        (lambda: pipeline.search("船", paths, top_k=0), "top_k is 0; give at least 1"),
        (lambda: pipeline.search("船", paths, rerank_k=-1), "rerank_k is -1; give at least 1"),
        (lambda: pipeline.score([(paths[0], "船")]), "PosixPath"),  # type: ignore[list-item]
    ):
        with pytest.raises(CcmbError, match=message):
            call()  # type: ignore[no-untyped-call]


def saved(folder: Path, **changes: Any) -> Path:
    tiny_model(**changes).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def test_it_opens_runs_and_model_folders_and_is_a_public_name(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "model", match_temperature=2.0)
    pipeline = ccmb.Pipeline.from_pretrained(tmp_path / "run", device="cpu", options=RankOptions(ranking_rule="sum"))
    assert (type(pipeline), pipeline.name) == (Pipeline, str(tmp_path / "run"))
    assert_scores(
        pipeline.score(PAIRS), Pipeline.from_model(tiny_model(match_temperature=2.0), tiny_processor()).score(PAIRS)
    )
    with pytest.raises(CcmbError, match="device=tpu: not a device"):
        Pipeline.from_pretrained(tmp_path / "run", device="tpu")
    with pytest.raises(CcmbError, match="no such model folder"):
        Pipeline.from_pretrained(tmp_path / "none")


def test_texts_are_cut_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    pipeline = Pipeline.from_pretrained(folder, max_text_tokens=6)
    text, processor = TEXTS[3], tiny_processor()
    with torch.inference_mode():
        cut = tiny_model().encode_text(**processor(text=[text], max_length=6, truncation=True))
    assert_same(pipeline.encode_texts([text]).embed, cut.embed)
    for wrong in (2, 25):
        with pytest.raises(UsageError, match=f"max_text_tokens is {wrong}; give 3 to 24"):
            Pipeline.from_pretrained(folder, max_text_tokens=wrong)


def test_hits_are_values() -> None:
    hit = Pipeline.from_model(tiny_model(), tiny_processor()).search(TEXTS[0], IMAGES[:1])[0]
    assert hit == ImageHit(hit.cosine, hit.match_score, None, hit.score, 0, IMAGES[0])
    assert isinstance(hit.image, Image.Image)
