"""Late interaction over an R2D2's tokens, `late:NAME`, as a second stage of any model and through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.helpers.exact import TINY_ERROR
from tests.helpers.runs import command_line
from tests.helpers.tiny import TEXTS, tiny_decoder_model, tiny_images, tiny_processor
from tests.helpers.two_towers import save_r2d2, save_two_towers
from torch.nn.functional import normalize

from ccmb.core.errors import UsageError
from ccmb.inference.late_interaction import as_int8, from_int8, late_scores
from ccmb.inference.models.open_model import open_model, open_ranker
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.search.engine import open_engine
from ccmb.search.indexing.indexer import build_index
from ccmb.search.query import SearchQuery

pytestmark = pytest.mark.numeric

COUNT = 4
SETTINGS = {"cross encoders": {}, "towers alone": {"cross_layers": 0}, "mean": {"text_pooling": "mean"}}


def expected_tokens(folder: Path, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    model, processor = load_model(folder)
    model.eval()
    inputs = processor.texts(TEXTS[:COUNT])
    with torch.no_grad():
        images = model.image_projection(model.encode_image(processor.images(tiny_images(COUNT))).states)
        states = model.text_tower(**inputs).last_hidden_state
        if model.config.text_pooling == "mean":
            states[:, 0] = model.pool_text(states, inputs["attention_mask"])
        texts = model.text_projection(states)
    images, texts = (normalize(tokens[..., :dim], dim=-1) for tokens in (images, texts))
    return images, texts, inputs["attention_mask"]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dim", [16, 6])
def test_pairs_are_scored_by_projected_tokens(setting: str, dim: int, tmp_path: Path) -> None:
    folder = save_r2d2(tmp_path / "r2d2", **SETTINGS[setting])
    clip = save_two_towers(tmp_path / "clip", "clip")
    model = open_model(f"{clip} + late:{folder}?dim={dim}")
    images, texts = model.encode_images(range(COUNT), tiny_images(COUNT).__getitem__), model.encode_texts(TEXTS[:COUNT])
    assert images.states.shape == (COUNT, 5, dim)
    assert (model.states_width, model.can_rank, model.is_calibrated) == (dim, True, False)
    index = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([0, 1, 2, 0, 3])
    scores = model.score_pairs(images, texts, *index)
    image, text, mask = expected_tokens(folder, dim)
    expected = late_scores(image[index[0]], text[index[1]], mask[index[1]])
    torch.testing.assert_close(scores.ranking, expected, rtol=0, atol=TINY_ERROR)


def test_behind_the_same_model_images_and_texts_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, reads = save_r2d2(tmp_path / "r2d2"), []
    model = open_model(f"{folder} + late:{folder}?dim=6")
    run = R2D2Model.run_image_tower
    monkeypatch.setattr(
        R2D2Model, "run_image_tower", lambda self, pixels: reads.append(len(pixels)) or run(self, pixels)
    )
    images, texts = model.encode_images(range(COUNT), tiny_images(COUNT).__getitem__), model.encode_texts(TEXTS[:COUNT])
    assert sum(reads) == COUNT
    alone = open_model(folder)
    expected = alone.encode_images(range(COUNT), tiny_images(COUNT).__getitem__), alone.encode_texts(TEXTS[:COUNT])
    for output, whole in zip((images, texts), expected, strict=True):
        torch.testing.assert_close(output.embed, whole.embed, rtol=0, atol=TINY_ERROR)
        assert output.states.shape[-1] == 6
    assert model.fingerprint != alone.fingerprint


def test_of_tokens_of_a_byte_a_number_the_scores_are_nearly_the_same_and_an_index_keeps_half(tmp_path: Path) -> None:
    folder, photos = save_r2d2(tmp_path / "r2d2"), tmp_path / "photos"
    photos.mkdir()
    for row, image in enumerate(tiny_images(COUNT)):
        image.save(photos / f"{row}.png")
    sizes, found = [], []
    for number, bits in enumerate(("", "?bits=8")):
        model = open_model(f"{folder} + late:{folder}{bits}")
        build_index([photos], tmp_path / f"index-{number}", model, states_bytes=2**20)
        with open_engine(tmp_path / f"index-{number}", folder, ranker=f"late:{folder}{bits}") as engine:
            sizes.append(engine.catalogue.states_size())
            engine.stages.last.model.ranker.encode_prepared = None  # no image is read again
            found.append({hit.name: hit.score for hit in engine.search(SearchQuery(TEXTS[0])).hits})
    assert sizes[0] - sizes[1] == COUNT * 5 * 16  # a byte of each number
    assert found[1] == pytest.approx(found[0], abs=0.01)
    assert found[1] != found[0]
    with pytest.raises(UsageError, match="bits=4; there are 8"):
        open_ranker(f"late:{folder}?bits=4")


def test_bytes_are_unit_vectors_to_a_part_in_two_hundred() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = normalize(torch.randn(50, 7, 32, generator=generator), dim=-1)
    coded = as_int8(tokens)
    assert coded.dtype == torch.int8
    assert int(coded.abs().amax(-1).min()) == 127
    # Half a step of the largest number, in each of the numbers at most.
    worst = tokens.abs().amax(-1, keepdim=True) / 127 / 2 * 32**0.5
    assert ((from_int8(coded.float()) - tokens).norm(dim=-1, keepdim=True) <= 2 * worst).all()
    assert (as_int8(torch.zeros(1, 1, 4)) == 0).all()


def test_a_decoders_tokens_are_those_of_its_text_tower(tmp_path: Path) -> None:
    folder = tmp_path / "decoder"
    tiny_decoder_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    ranker = open_ranker(f"late:{folder}")
    texts = ranker.encode_texts(TEXTS[:COUNT])
    _, expected, mask = expected_tokens(folder, 16)
    real = mask.bool()
    torch.testing.assert_close(texts.states[real], expected[real], rtol=0, atol=TINY_ERROR)
    assert isinstance(load_model(folder)[0], R2D2Model)


def test_the_commands_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = command_line(monkeypatch, capfd)
    photos, folder, index = tmp_path / "photos", save_r2d2(tmp_path / "r2d2"), tmp_path / "index"
    photos.mkdir()
    for row, image in enumerate(tiny_images(COUNT)):
        image.save(photos / f"{row}.png")
    lines = [{"image": f"{row}.png", "texts": [TEXTS[row]], "split": "val"} for row in range(COUNT)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    images = "--data", pairs, "--images", photos, "--split", "val", "--text-field", "texts"
    late = f"late:{folder}"
    for line in (
        ("index", photos, "--model", folder, "--out", index),
        ("evaluate", "--model", f"{folder} + {late}?dim=8", *images),
    ):
        done = command(*line)
        assert done.code == 0, (line, done.err)
    done = command("search", TEXTS[0], "--index", index, "--ranker", late, "-k", COUNT, "--json")
    assert done.code == 0, done.err
    hits = json.loads(done.out)
    image, text, mask = expected_tokens(folder, 16)
    scores = late_scores(image, text[:1].expand(COUNT, -1, -1), mask[:1].expand(COUNT, -1))
    assert [hit["name"] for hit in hits] == [f"{row}.png" for row in scores.argsort(descending=True).tolist()]
    assert all(hit["probability"] is None for hit in hits)


def test_what_has_no_tokens_is_refused(tmp_path: Path) -> None:
    clip, folder = save_two_towers(tmp_path / "clip", "clip"), save_r2d2(tmp_path / "r2d2")
    with pytest.raises(UsageError, match=r"late interaction reads the tokens of an R2D2"):
        open_ranker(f"late:{clip}")
    with pytest.raises(UsageError, match=r"dim=17; its embeddings have 16 numbers"):
        open_ranker(f"late:{folder}?dim=17")
    with pytest.raises(UsageError, match=r"encodes nothing; give it as a second stage: MODEL \+ late:"):
        open_model(f"late:{folder}")
