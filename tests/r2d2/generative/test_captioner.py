"""R2D2Captioner: what it takes over from an R2D2, what it sees, and that its cache changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers.models.bert.modeling_bert import BertLayer

from ccmb.core.errors import CcmbError, UsageError
from ccmb.objectives.captioning import Captioning, CaptioningOptions, captioning_loss
from ccmb.objectives.config import Objectives, Ranking
from ccmb.objectives.pretraining import PreTraining
from ccmb.r2d2.decoders.caption_decoder import CaptionState, TextLayer
from ccmb.r2d2.generative.captioner import CONFIG, WEIGHTS, R2D2Captioner, load_captioner
from ccmb.r2d2.loading import load_model
from ccmb.tasks.captioning.decoding import Decoding, Vocabulary, decode_captions
from ccmb.tasks.finetuning.interpolate import mix
from ccmb.tasks.pretraining.run import save_model
from tests.helpers.exact import PROOFS, assert_same, same
from tests.helpers.tiny import tiny_batch, tiny_config, tiny_model, tiny_processor

pytestmark = PROOFS

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 24,
    "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip


def captioner(text_layers: int | None = None, **changes: object) -> R2D2Captioner:
    return R2D2Captioner.from_r2d2(tiny_model(**changes), tiny_processor(), text_layers)


def test_a_text_layer_is_berts() -> None:
    config = tiny_config().text_config
    config._attn_implementation = "sdpa"
    reference, own = BertLayer(config).eval(), TextLayer(32, 2, 48, 0.0, config.layer_norm_eps).eval()
    own.load_state_dict(reference.state_dict())
    states = torch.randn(3, 7, 32)
    causal = torch.ones(7, 7).tril().bool()[None, None]
    expected = reference(states, attention_mask=causal)
    attended = own.attention(states, *own.attention.keys_values(states), causal)
    assert_same(own.feed_forward(attended), expected[0] if isinstance(expected, tuple) else expected)


def test_the_first_word_is_what_the_masked_language_head_reads_at_a_text_of_one_token() -> None:
    """At the first token a causal mask hides nothing: decoder and R2D2 must agree."""
    model, images = captioner(), tiny_batch(3).pixel_values
    start = torch.full((3, 1), model.shape.start_id)
    with torch.inference_mode():
        own = torch.arange(3)
        expected = model.mlm_logits(model.read_texts(model.encode_image(images), model.encode_text(start), own, own))
        states, _ = model.decoder(start, model.look(images))
        assert_same(model.decoder.logits(states), expected)


def test_no_word_sees_a_later_one_and_every_word_sees_the_image() -> None:
    model, batch = captioner(), tiny_batch(2)
    with torch.inference_mode():
        seen = model.look(batch.pixel_values)
        before, _ = model.decoder(batch.input_ids, seen)
        changed = batch.input_ids.clone()
        changed[:, 5] = (changed[:, 5] + 1) % model.config.text_config.vocab_size
        after, _ = model.decoder(changed, seen)
        assert_same(before[:, :5], after[:, :5])
        assert (before[:, 5:] - after[:, 5:]).abs().amax(-1).min() > 1e-3
        other, _ = model.decoder(batch.input_ids, model.look(batch.pixel_values.flip(0)))
        assert (before - other).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        Decoding("greedy", max_length=12),
        Decoding("beam", beams=4, candidates=4, max_length=12, min_length=3, block_ngrams=2),
        Decoding("sample", candidates=3, max_length=12, top_p=0.8),
    ],
    ids=lambda options: options.decode,
)
def test_decoding_with_a_cache_is_decoding_without(options: Decoding) -> None:
    model, images = captioner(), tiny_batch(3).pixel_values
    vocabulary = Vocabulary(model.shape.start_id, model.shape.end_id, model.shape.never_ids)
    with torch.inference_mode():
        seen = model.look(images)
        fast, slow = (
            decode_captions(CaptionState(model.decoder, seen, cached), 3, vocabulary, options)
            for cached in (True, False)
        )
        alone = [
            decode_captions(
                CaptionState(model.decoder, model.look(images[[position]])), 1, vocabulary, options, first=position
            )[0]
            for position in range(3)
        ]
    assert any(len(item.tokens) > 3 for captions in fast for item in captions)
    for other in (slow, alone):
        assert [[item.tokens for item in captions] for captions in fast] == [
            [item.tokens for item in captions] for captions in other
        ]
        for own, reference in zip(fast, other, strict=True):
            assert [item.log_probability for item in own] == same([item.log_probability for item in reference])


def test_the_log_probability_is_that_of_the_whole_caption() -> None:
    model, images = captioner(), tiny_batch(1).pixel_values
    shape = model.shape
    vocabulary = Vocabulary(shape.start_id, shape.end_id, shape.never_ids)
    with torch.inference_mode():
        seen = model.look(images)
        result = decode_captions(
            CaptionState(model.decoder, seen), 1, vocabulary, Decoding("sample", candidates=5, max_length=9)
        )[0]
        for item in result:
            assert not {*item.tokens} & {shape.start_id, shape.end_id, *shape.never_ids}
            whole = torch.tensor([[shape.start_id, *item.tokens, shape.end_id]])
            logits = model.decoder.logits(model.decoder(whole[:, :-1], seen)[0])[0]
            logits[:, list(shape.never_ids)] = -torch.inf
            output = logits.log_softmax(1)[torch.arange(whole.shape[1] - 1), whole[0, 1:]]
            assert item.log_probability == same(float(output.sum()))


def test_a_folder_keeps_captioner_and_r2d2(tmp_path: Path) -> None:
    made = captioner(text_layers=0)
    save_model(tmp_path / "model", made, tiny_processor())
    loaded, _ = load_captioner(tmp_path / "model")
    assert loaded.shape == made.shape
    for name, tensor in made.state_dict().items():
        assert_same(loaded.state_dict()[name], tensor)
    r2d2, _ = load_model(tmp_path / "model")
    assert not hasattr(r2d2, "decoder")
    assert_same(r2d2.text_projection.weight, made.text_projection.weight)


def test_what_is_no_captioner_is_refused_in_one_line(tmp_path: Path) -> None:
    save_model(tmp_path / "plain", tiny_model(), tiny_processor())
    with pytest.raises(CcmbError, match="writes no captions yet; make one that does: ccmb finetune captioning"):
        load_captioner(tmp_path / "plain")
    save_model(tmp_path / "model", captioner(), tiny_processor())
    (tmp_path / "model" / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(CcmbError, match=f"{WEIGHTS}: the decoder cannot be loaded"):
        load_captioner(tmp_path / "model")
    (tmp_path / "model" / CONFIG).write_text('{"text_layers": 1}')
    with pytest.raises(CcmbError, match=f"{CONFIG}: not the shape of a decoder"):
        load_captioner(tmp_path / "model")
    with pytest.raises(UsageError, match="no cross encoders"):
        captioner(cross_layers=0)
    with pytest.raises(UsageError, match="the text tower has 1"):
        captioner(text_layers=2)
    relu = TEXT | {"model_type": "ernie", "vocab_size": len(tiny_processor().tokenizer), "hidden_act": "relu"}
    with pytest.raises(UsageError, match=r"not gelu; set captioning\.text_layers=0"):
        captioner(text_config=relu)
    assert captioner(text_layers=0, text_config=relu).shape.text_layers == 0
    distilbert = TEXT | {"model_type": "distilbert", "vocab_size": 200, "dim": 32, "hidden_dim": 48, "n_heads": 2}
    with pytest.raises(UsageError, match="BERT"):
        captioner(text_config=distilbert)


@pytest.mark.parametrize("kind", ["roberta", "ernie"])
def test_kin_of_bert_are_taken_over_with_their_positions(kind: str) -> None:
    positions = {"max_position_embeddings": 30}
    changes = TEXT | positions | {"model_type": kind, "vocab_size": len(tiny_processor().tokenizer)}
    model = captioner(text_config=changes)
    start = torch.full((1, 1), model.shape.start_id)
    with torch.inference_mode():
        embeddings = model.text_tower.embeddings(input_ids=start)
        places = model.decoder.position_embeddings(torch.arange(1))
        own = model.decoder.LayerNorm(model.decoder.word_embeddings(start) + places)
        assert_same(own, embeddings)


def test_the_loss_is_a_mean_over_words_and_padding_counts_for_nothing() -> None:
    logits = torch.randn(5, 9)
    tokens = torch.tensor([1, 4, 8, 0, 2])
    expected = -logits.log_softmax(1)[torch.arange(5), tokens].mean()
    assert_same(captioning_loss(logits, tokens), expected)
    smooth = 0.9 * expected - 0.1 * logits.log_softmax(1).mean()
    assert_same(captioning_loss(logits, tokens, 0.1), smooth)
    objective, batch = Captioning(captioner(), CaptioningOptions()), tiny_batch(4)
    loss = objective.losses(batch)[0]["captioning"]
    filler = torch.full((4, 3), 9)
    longer = replace(
        batch,
        input_ids=torch.cat([batch.input_ids, filler], 1),
        attention_mask=torch.cat([batch.attention_mask, torch.zeros_like(filler)], 1),
    )
    assert_same(objective.losses(longer)[0]["captioning"], loss)
    chunked = Captioning(objective.model, CaptioningOptions(), chunk=3)
    assert_same(chunked.losses(batch)[0]["captioning"], loss)


def test_the_benchmark_finds_the_same_captions_with_and_without_a_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import decode_captions

    file = tmp_path / "report.json"
    arguments = ["--shape", "test", "--length", "6", "--beams", "3", "--rounds", "2", "--json", str(file)]
    result = decode_captions.main(arguments)
    assert [item["target"] for item in result["claims"]] == [3.0, None]
    assert file.is_file()


def test_between_two_captioners_is_a_captioner_and_beside_an_r2d2_an_r2d2(tmp_path: Path) -> None:
    one, other = captioner(), captioner()
    with torch.no_grad():
        other.decoder.head.bias += 1.0
    for name, model in (("one", one), ("other", other), ("plain", tiny_model())):
        save_model(tmp_path / name, model, tiny_processor())
    mix(tmp_path / "one", tmp_path / "other", 0.25, tmp_path / "mixed")
    between, _ = load_captioner(tmp_path / "mixed")
    assert_same(between.decoder.head.bias, one.decoder.head.bias + 0.25)
    mix(tmp_path / "plain", tmp_path / "one", 0.5, tmp_path / "half")
    assert not (tmp_path / "half" / CONFIG).exists()


@pytest.mark.parametrize("owns", [True, False])
def test_captioning_may_own_the_image_tower(owns: bool) -> None:
    model = captioner()
    options = Objectives.model_validate({"mlm": False, "tgd": False, "fgd": False, "gcpr": {"start_at": 0.5}})
    mask_id = tiny_processor().tokenizer.mask_token_id
    pretraining = PreTraining(
        model, options.model_copy(update={"fgr": Ranking(start_at=0.5)}), mask_id, has_other_loss=True
    )
    objective = Captioning(model, CaptioningOptions(owns_image_tower=owns), pretraining)
    assert objective.losses(tiny_batch(4), 0.4)[0].keys() == {"captioning"}
    losses, _ = objective.losses(tiny_batch(4), 0.5, torch.Generator().manual_seed(0))
    assert losses.keys() == {"captioning", "gcpr", "fgr"}
    total = losses["captioning"] + losses["gcpr"] + losses["fgr"]
    assert_same(objective.total(losses), total)
    pretraining.total({name: losses[name] for name in ("gcpr", "fgr")}).backward()
    assert model.image_projection.weight.grad is not None
    assert model.text_image_encoder.layer[0].crossattention.self.key.weight.grad is not None
    assert (model.image_tower.embeddings.patch_embedding.weight.grad is None) == owns
    assert all(weight.grad is None for weight in model.decoder.parameters())


def test_further_layers_that_read_the_image_are_new_and_the_first_are_the_cross_encoders() -> None:
    model = tiny_model()
    made = R2D2Captioner.from_r2d2(model, tiny_processor(), cross_layers=3)
    assert len(made.decoder.cross_layers) == 3
    for layer, own in zip(made.decoder.cross_layers, model.text_image_encoder.layer, strict=False):
        for name, tensor in own.state_dict().items():
            assert_same(layer.state_dict()[name], tensor)


def test_towers_alone_become_a_captioner_with_layers_of_its_own(tmp_path: Path) -> None:
    towers, processor = tiny_model(cross_layers=0, match_heads=False, mlm_head=False), tiny_processor()
    with pytest.raises(UsageError, match=r"no cross encoders \(PRD2\).*or give captioning.cross_layers"):
        R2D2Captioner.from_r2d2(towers, processor)
    made = R2D2Captioner.from_r2d2(towers, processor, cross_layers=1, standardize_states=True)
    batch = tiny_batch(4)
    training = Captioning(made.train(), CaptioningOptions())
    training.losses(batch)
    norm, states = made.decoder.standardize, made.eval().encode_image(batch.pixel_values).states.flatten(0, 1)
    assert norm is not None
    assert_same(norm.mean, states.mean(0))
    assert_same(norm.deviation, states.std(0, correction=0))
    training.losses(tiny_batch(4, seed=1))
    assert_same(norm.mean, states.mean(0))  # measured once
    save_model(tmp_path, made, processor)
    again, _ = load_captioner(tmp_path)
    assert not again.can_rank
    seen = made.look(batch.pixel_values), again.double().look(batch.pixel_values)
    for (keys, values), (own_keys, own_values) in zip(*seen, strict=True):
        torch.testing.assert_close(own_keys, keys, rtol=0, atol=1e-5)
        torch.testing.assert_close(own_values, values, rtol=0, atol=1e-5)


def test_a_decoder_saved_without_the_newer_options_is_read_as_it_was(tmp_path: Path) -> None:
    made = captioner()
    save_model(tmp_path, made, tiny_processor())
    values = json.loads((tmp_path / CONFIG).read_text())
    del values["cross_layers"], values["standardize_states"]
    (tmp_path / CONFIG).write_text(json.dumps(values))
    assert load_captioner(tmp_path)[0].shape == made.shape
