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
from ccmb.inference.late_interaction import late_scores
from ccmb.inference.models.open_model import open_model, open_ranker
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model

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
