"""R2D2 under generic tools: features, outputs, loss, embeddings, checkpointing, pipeline, Trainer and others."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForZeroShotImageClassification, CLIPModel, pipeline

from ccmb.core.config.recipe_files import check_recipe
from ccmb.objectives.ranking import draw_pairs
from ccmb.r2d2.common_api import R2D2Output
from ccmb.r2d2.modeling import R2D2Model
from ccmb.tasks.pretraining.recipe import PretrainRecipe
from ccmb.tasks.pretraining.run import make_pretraining
from tests.helpers.tiny import SIZE, TEXTS, tiny_batch, tiny_images, tiny_model, tiny_processor

STEM = {
    "model_type": "stem_vision", "image_size": SIZE, "patch_size": 8, "stem_channels": [8, 16], "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def inputs_of(count: int) -> dict[str, torch.Tensor]:
    batch = tiny_batch(count)
    return {
        "pixel_values": batch.pixel_values, "input_ids": batch.input_ids, "attention_mask": batch.attention_mask,
    }  # fmt: skip


def test_features_are_the_embeddings_of_both_towers() -> None:
    model, inputs = tiny_model().double(), inputs_of(3)
    pixels = inputs["pixel_values"].double()
    with torch.no_grad():
        images, texts = model.get_image_features(pixels), model.get_text_features(**_of_text(inputs))
        encoded_images, encoded_texts = model.encode_image(pixels), model.encode_text(**_of_text(inputs))
    assert torch.equal(images.pooler_output, encoded_images.embed)
    assert torch.equal(texts.pooler_output, encoded_texts.embed)
    assert torch.equal(images.last_hidden_state, encoded_images.states)
    assert torch.equal(texts.last_hidden_state, encoded_texts.states)
    assert images.pooler_output.shape == texts.pooler_output.shape == (3, model.config.projection_dim)
    assert torch.equal(model.get_image_features(pixels, return_dict=False)[1], images.pooler_output)


def _of_text(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("method", ["get_text_features", "get_image_features"])
def test_features_take_the_arguments_of_clips(method: str) -> None:
    own, clips = (inspect.signature(getattr(kind, method)).parameters for kind in (R2D2Model, CLIPModel))
    shared = [name for name in clips if name in ("input_ids", "attention_mask", "pixel_values")]
    assert list(own)[: len(shared) + 1] == ["self", *shared]


def test_logits_are_cosines_over_the_temperature_and_scores_are_asked_for() -> None:
    model, inputs = tiny_model(initial_temperature=0.05), inputs_of(3)
    inputs["pixel_values"] = inputs["pixel_values"][:2]
    with torch.no_grad():
        output, ranked = model(**inputs), model(**inputs, rank=True)
    assert isinstance(output, R2D2Output)
    assert output.loss is None
    assert output.scores is None
    cosine = output.text_embeds[2] @ output.image_embeds[1]
    assert output.logits_per_text.shape == (3, 2)
    assert float(output.logits_per_text[2, 1]) == pytest.approx(float(cosine) / 0.05, rel=1e-5)
    assert torch.equal(output.logits_per_image, output.logits_per_text.T)
    images, texts = model.encode_image(inputs["pixel_values"]), model.encode_text(**_of_text(inputs))
    pair = model.rank(images, texts, torch.tensor([1]), torch.tensor([2])).score[0]
    torch.testing.assert_close(ranked.scores[2, 1], pair)


def test_unknown_keywords_of_forward_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="output_attentions"):
        tiny_model()(**inputs_of(2), output_attentions=True)
    with pytest.raises(ValueError, match="second segment"):
        tiny_model()(**inputs_of(2), token_type_ids=torch.ones(2, 3, dtype=torch.long))


def by_hand(model: R2D2Model, inputs: dict[str, torch.Tensor], positives: torch.Tensor) -> float:
    """GCPR plus FGR, item by item."""
    images, texts = model.encode_image(inputs["pixel_values"]), model.encode_text(**_of_text(inputs))
    logits = (images.embed @ texts.embed.T / model.temperature).detach()
    count, total = len(logits), 0.0
    for rows in (logits, logits.T):
        for row in range(count):
            right = [column for column in range(count) if positives[row, column]]
            bottom = math.log(sum(math.exp(float(value)) for value in rows[row]))
            total += sum(bottom - float(rows[row, column]) for column in right) / len(right) / (2 * count)
    uniform = torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    pairs = draw_pairs(logits, logits.T, positives, torch.arange(count), uniform)
    assert (pairs.labels[count:] == 0).all()
    for image, text in zip(pairs.image_index[count:].tolist(), pairs.text_index[count:].tolist(), strict=True):
        assert not positives[image, text]
    ranked = model.rank(images, texts, pairs.image_index, pairs.text_index)
    for head in (ranked.logits_text_image, ranked.logits_image_text):
        chances = head.detach().softmax(1)[torch.arange(3 * count), pairs.labels]
        weights = [2.0] * count + [1.0] * (2 * count)
        losses = [-weight * math.log(float(chance)) for weight, chance in zip(weights, chances, strict=True)]
        total += sum(losses) / sum(weights) / 2
    return total


def test_the_loss_is_that_of_fine_tuning_worked_out_item_by_item() -> None:
    model, inputs = tiny_model(initial_temperature=0.2), inputs_of(5)
    with torch.no_grad():
        output = model(**inputs, return_loss=True)
    assert float(output.loss) == pytest.approx(by_hand(model, inputs, torch.eye(5, dtype=torch.bool)), rel=1e-4)


def test_equal_texts_and_equal_images_are_positives_in_the_loss() -> None:
    model, inputs = tiny_model(initial_temperature=0.2), inputs_of(5)
    inputs["input_ids"][3], inputs["attention_mask"][3] = inputs["input_ids"][0], inputs["attention_mask"][0]
    positives = torch.eye(5, dtype=torch.bool)
    positives[0, 3] = positives[3, 0] = positives[1, 2] = positives[2, 1] = True
    with torch.no_grad():
        loss = model(**inputs, return_loss=True, image_ids=torch.tensor([0, 7, 7, 3, 4])).loss
    assert float(loss) == pytest.approx(by_hand(model, inputs, positives), rel=1e-4)


def test_without_cross_encoders_the_loss_is_clips() -> None:
    model, inputs = tiny_model(cross_layers=0), inputs_of(4)
    with torch.no_grad():
        output = model(**inputs, return_loss=True)
    own = torch.arange(4)
    halves = (F.cross_entropy(output.logits_per_text, own), F.cross_entropy(output.logits_per_image, own))
    torch.testing.assert_close(output.loss, sum(halves) / 2)


def test_a_loss_comes_by_itself_in_training_and_never_of_what_is_no_pairs() -> None:
    model, inputs = tiny_model(), inputs_of(3)
    assert model.train()(**inputs).loss.requires_grad
    assert model.eval()(**inputs).loss is None
    inputs["pixel_values"] = inputs["pixel_values"][:2]
    assert model.train()(**inputs).loss is None
    with pytest.raises(ValueError, match="a loss needs pairs; there are 2 images and 3 texts"):
        model(**inputs, return_loss=True)


def test_every_part_learns_from_the_loss_but_the_masked_language_head() -> None:
    model = tiny_model().train()
    model(**inputs_of(4)).loss.backward()
    idle = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert all(name.startswith(("mlm_head.", "image_tower.post_layernorm.")) for name in idle)  # read by no objective


def test_a_foreign_loop_keeps_the_temperature_in_its_range() -> None:
    model = tiny_model(temperature_min=0.01).train()
    with torch.no_grad():
        model.temperature.fill_(-0.5)
    model(**inputs_of(3))
    assert float(model.temperature.detach()) == pytest.approx(0.01)


def test_input_embeddings_are_the_words_and_can_be_exchanged() -> None:
    model = tiny_model()
    words = model.get_input_embeddings()
    assert words is model.text_tower.embeddings.word_embeddings
    other = torch.nn.Embedding(words.num_embeddings, words.embedding_dim)
    model.set_input_embeddings(other)
    assert model.text_tower.embeddings.word_embeddings is other


@pytest.mark.parametrize("more", [3, -5])
def test_more_or_fewer_words_reach_the_masked_language_head_and_save(more: int, tmp_path: Path) -> None:
    model = tiny_model()
    before = model.config.text_config.vocab_size
    states, kept = torch.randn(2, 32), before + min(more, 0)
    logits = model.mlm_logits(states)
    model.resize_token_embeddings(before + more, mean_resizing=False)
    assert model.mlm_logits(states).shape == (2, before + more)
    torch.testing.assert_close(model.mlm_logits(states)[:, :kept], logits[:, :kept])
    model.save_pretrained(tmp_path)
    opened = R2D2Model.from_pretrained(tmp_path)
    assert opened.get_input_embeddings().num_embeddings == opened.config.text_config.vocab_size == before + more


def gradients(model: R2D2Model, inputs: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(3)
    loss = model(**inputs).loss
    loss.backward()
    named = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return float(loss.detach()), named


@pytest.mark.parametrize("vision", [None, STEM], ids=["clip", "stem"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradient_checkpointing_gives_equal_gradients(vision: Any, packed: bool, reentrant: bool) -> None:
    changes = {"cross_layers": 3, "cross_dropout": 0.2} | ({} if vision is None else {"vision_config": vision})
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model, inputs = tiny_model(**changes).double().train(), inputs_of(4)
        inputs["pixel_values"] = inputs["pixel_values"].double()
        model.pack_texts = packed
        loss, plain = gradients(model, inputs)
        calls = 0
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        for part in (model.text_image_encoder, model.image_text_encoder):
            original = part._gradient_checkpointing_func

            def counted(*args: Any, original: Any = original) -> Any:
                nonlocal calls
                calls += 1
                return original(*args)

            part._gradient_checkpointing_func = counted
        again, checkpointed = gradients(model, inputs)
        assert calls >= 10  # of each encoder: two halves of each of three layers, less the first layers' shared half
        assert again == pytest.approx(loss, rel=1e-12)
        assert checkpointed.keys() == plain.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-10, atol=1e-12)
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize("on", [True, False])
def test_a_recipe_switches_gradient_checkpointing_on_in_every_layer_and_its_gradients_are_the_same(on: bool) -> None:
    objectives = {"tgd": {"queue_size": 8}}
    values = {"data": {"folder": "x"}, "training": {"steps": 1, "gradient_checkpointing": on}, "objectives": objectives}
    recipe, model = check_recipe(PretrainRecipe, values, "small.yaml"), tiny_model().train()
    pretraining = make_pretraining(model, tiny_processor(), recipe).train()
    stacks = [layer for tower in (model.image_tower, model.text_tower) for layer in layers_of(tower)]
    switched = [*stacks, model.text_image_encoder, model.image_text_encoder]
    assert len(stacks) == 2
    assert [part.gradient_checkpointing for part in switched] == [on] * 4

    def gradient() -> list[torch.Tensor]:
        model.zero_grad()
        losses, _ = pretraining.losses(tiny_batch(4), 0.5, torch.Generator().manual_seed(0))
        pretraining.total({name: loss for name, loss in losses.items() if name != "tgd"}).backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    result = gradient()
    for part in switched:
        part.gradient_checkpointing = False
    for own, plain in zip(result, gradient(), strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-3, atol=1e-5)


def layers_of(tower: torch.nn.Module) -> list[Any]:
    return [layer for part in tower.modules() if isinstance(part, torch.nn.ModuleList) for layer in part]


def test_the_zero_shot_pipeline_gives_the_softmax_of_the_logits(folder: Path) -> None:
    model, processor, image = R2D2Model.from_pretrained(folder).eval(), tiny_processor(), tiny_images(1)[0]
    labels = ["小船", "两只猫", "树"]
    with torch.no_grad():
        logits = model(**processor(image, [f"一张{label}的照片" for label in labels])).logits_per_image[0]
    expected = dict(zip(labels, logits.softmax(0).tolist(), strict=True))
    given: list[dict[str, Any]] = [
        {"model": str(folder)},
        {"model": model, "image_processor": processor.image_processor, "tokenizer": processor.tokenizer},
    ]
    for arguments in given:
        classify = pipeline("zero-shot-image-classification", **arguments)
        answers = classify(image, candidate_labels=labels, hypothesis_template="一张{}的照片")
        assert [answer["label"] for answer in answers] == sorted(labels, key=expected.__getitem__, reverse=True)
        for answer in answers:
            assert answer["score"] == pytest.approx(expected[answer["label"]], abs=1e-4)


def test_auto_classes_open_it_for_features_and_for_classification(folder: Path) -> None:
    for kind in (AutoModel, AutoModelForZeroShotImageClassification):
        assert isinstance(kind.from_pretrained(folder), R2D2Model)


class Pairs(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.inputs = tiny_processor()(tiny_images(8), list(TEXTS), padding="max_length")

    def __len__(self) -> int:
        return 8

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        return {name: values[position] for name, values in self.inputs.items()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_plain_trainer_trains_measures_and_saves(tmp_path: Path, checkpointing: bool) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model, data = tiny_model(), Pairs()
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, max_steps=12, learning_rate=3e-3, report_to=[], use_cpu=True,
        logging_steps=1, save_steps=12, gradient_checkpointing=checkpointing, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data, processing_class=tiny_processor())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.7 * losses[0]
    opened = R2D2Model.from_pretrained(tmp_path / "checkpoint-12").eval()
    with torch.no_grad():
        expected = model.eval().get_text_features(data.inputs["input_ids"], data.inputs["attention_mask"])
        result = opened.get_text_features(data.inputs["input_ids"], data.inputs["attention_mask"])
    torch.testing.assert_close(result.pooler_output, expected.pooler_output)


def test_sentence_transformers_encodes_texts_and_images(folder: Path) -> None:
    st = pytest.importorskip("sentence_transformers")
    encoder = st.SentenceTransformer(str(folder), device="cpu")
    model, processor, image_source = R2D2Model.from_pretrained(folder).eval(), tiny_processor(), tiny_images(2)
    with torch.no_grad():
        texts = model.encode_text(**processor.texts(TEXTS[:3])).embed
        images = model.encode_image(processor.images(image_source)).embed
    torch.testing.assert_close(torch.from_numpy(encoder.encode(list(TEXTS[:3]))), texts, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(encoder.encode(image_source)), images, rtol=0, atol=1e-5)
    assert encoder.get_embedding_dimension() == model.config.embed_dim
