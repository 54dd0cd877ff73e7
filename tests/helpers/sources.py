"""Small random pre-trained models on disk, and checks that what is built from them is theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from ccmb.r2d2.loading import load_model
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from tests.helpers.exact import assert_same
from tests.helpers.tiny import SIZE, TEXTS, tiny_images, tiny_processor

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
EYE = TOWER | {"image_size": SIZE, "patch_size": 16}
SMALL = {"embed_dim": 16, "cross_layers": 1, "max_text_tokens": 24}
WORDS = 80  # no fewer than either tokenizer has

Build = Callable[[], hf.PreTrainedModel]
VISIONS: dict[str, Build] = {
    "clip": lambda: hf.CLIPModel(hf.CLIPConfig(vision_config=EYE, text_config=TOWER | {"vocab_size": 9})),
    "clip_vision_model": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**EYE)),
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(vision_config=EYE, text_config=TOWER | {"vocab_size": 9})),
    "siglip_vision_model": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**EYE)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**EYE)),
    "dinov2_with_registers": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**EYE)),
    "dinov3_vit": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**EYE, num_register_tokens=2)),
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**EYE)),
    "beit": lambda: hf.BeitModel(hf.BeitConfig(**EYE)),
}
# Of 32 pixels convolutional networks of stride 32 leave one cell, of 64 four.
MAP = {"image_size": 64}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
WINDOWS = MAP | {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
BACKBONES: dict[str, Build] = VISIONS | {
    "efficientnet": lambda: hf.EfficientNetModel(
        hf.EfficientNetConfig(**MAP, width_coefficient=0.2, depth_coefficient=0.3, hidden_dim=256)
    ),
    "resnet": lambda: hf.ResNetModel(hf.ResNetConfig(**STAGES, embedding_size=8)),
    "regnet": lambda: hf.RegNetModel(hf.RegNetConfig(**STAGES, embedding_size=8, groups_width=4)),
    "convnext": lambda: hf.ConvNextModel(hf.ConvNextConfig(**MAP, **STAGES)),
    "convnextv2": lambda: hf.ConvNextV2Model(hf.ConvNextV2Config(**MAP, **STAGES)),
    "dinov3_convnext": lambda: hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(**MAP, **STAGES)),
    "mobilenet_v1": lambda: hf.MobileNetV1Model(hf.MobileNetV1Config(**MAP, depth_multiplier=0.1)),
    "mobilenet_v2": lambda: hf.MobileNetV2Model(hf.MobileNetV2Config(**MAP, depth_multiplier=0.1)),
    "swin": lambda: hf.SwinModel(hf.SwinConfig(**WINDOWS)),
    "swinv2": lambda: hf.Swinv2Model(hf.Swinv2Config(**WINDOWS)),
    "pvt": lambda: hf.PvtModel(hf.PvtConfig(**MAP, **STAGES, num_attention_heads=[1, 1, 2, 2])),
    "pvt_v2": lambda: hf.PvtV2Model(hf.PvtV2Config(**MAP, **STAGES, num_attention_heads=[1, 1, 2, 2])),
    "segformer": lambda: hf.SegformerModel(hf.SegformerConfig(**STAGES, num_attention_heads=[1, 1, 2, 2])),
    "poolformer": lambda: hf.PoolFormerModel(hf.PoolFormerConfig(**STAGES)),
    "aimv2_vision_model": lambda: hf.Aimv2VisionModel(hf.Aimv2VisionConfig(**EYE)),
}
TEXT = TOWER | {"vocab_size": WORDS, "pad_token_id": 0}
TEXTUAL: dict[str, Build] = {
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT, max_position_embeddings=64)),
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**TEXT, max_position_embeddings=65)),
    "xlm-roberta": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**TEXT, max_position_embeddings=65)),
    "modernbert": lambda: hf.ModernBertModel(hf.ModernBertConfig(**TEXT, max_position_embeddings=64)),
    "ernie": lambda: hf.ErnieModel(hf.ErnieConfig(**TEXT, max_position_embeddings=64)),
}


def made(build: Build) -> hf.PreTrainedModel:
    """The model, in evaluation mode, with weights that no initialisation would give; always the same."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        model = build().eval()
        for tensor in model.parameters():
            tensor.normal_(std=0.2)
    return model


def saved(build: Build, folder: Path) -> Path:
    made(build).save_pretrained(folder)
    return folder


def made_backbone(kind: str) -> hf.PreTrainedModel:
    """A backbone near the library's own initialisation, so that deep ones neither fade nor overflow, whose batch norm
    has the statistics of some noise; always the same."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        model = BACKBONES[kind]().train()
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor), alpha=0.02)
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:  # some of the library's are drawn around 0, which lets little through
            torch.nn.init.uniform_(norm.weight, 0.5, 1.0)
            norm.momentum = 1.0
        if norms:
            model(torch.randn(4, 3, 64, 64))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.running_var.clamp_(min=float(norm.running_var.mean()))
    return model.eval()


def save_backbone(folder: Path, kind: str) -> Path:
    made_backbone(kind).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    return saved(VISIONS["clip"], folder)


def save_text_tower(folder: Path, kind: str = "bert") -> Path:
    """A text model's folder with a tokenizer: BERT's form for bert, any fast one for the others."""
    saved(TEXTUAL[kind], folder)
    if kind == "bert":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set("".join(TEXTS)))]
        (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    else:
        tiny_processor().tokenizer.save_pretrained(folder)
    return folder


def chinese_clip() -> hf.PreTrainedModel:
    text = {key: value for key, value in TEXT.items() if key != "pad_token_id"} | {"max_position_embeddings": 64}
    return hf.ChineseCLIPModel(hf.ChineseCLIPConfig(vision_config=EYE, text_config=text, projection_dim=12))


def save_chinese_clip(folder: Path) -> Path:
    tiny_processor().tokenizer.save_pretrained(saved(chinese_clip, folder))
    return folder


def assert_arrived(tower: hf.PreTrainedModel, folder: Path, prefix: str = "") -> None:
    """All of the tower is in the folder's file bit for bit, and all of the file in the tower but pooling layers."""
    tower.save_pretrained(folder / "again")
    file, again = load_file(folder / "model.safetensors"), load_file(folder / "again" / "model.safetensors")
    assert len(again) == len(tower.state_dict())
    assert all(torch.equal(tensor, file[prefix + name]) for name, tensor in again.items())
    left_over = {name.removeprefix(prefix) for name in file if name.startswith(prefix)} - set(again)
    assert all(name.startswith(("pooler.", "cls.")) for name in left_over)


def outputs(model: R2D2Model, processor: R2D2Processor) -> list[Tensor]:
    inputs = processor(tiny_images(2), TEXTS[:2])
    with torch.no_grad():
        images = model.encode_image(inputs["pixel_values"].double())
        texts = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        score = model.rank(images, texts, torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1])).score
    return [images.embed, texts.embed, score]


def assert_works_and_keeps_its_outputs(model: R2D2Model, processor: R2D2Processor, folder: Path) -> None:
    """It becomes float64 thereby."""
    assert not model.training
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    loaded, its_processor = load_model(folder)
    # In float64, and not bit for bit: weights lie elsewhere in memory.
    before, after = outputs(model.double(), processor), outputs(loaded.double(), its_processor)
    assert_same(after, before)
    for embed in before[:2]:
        assert_same(embed.norm(dim=1), torch.ones(2, dtype=torch.double))
        assert not torch.allclose(embed[0], embed[1])
    assert ((before[2] > 0) & (before[2] < 1)).all()


def sentencepiece_like() -> hf.PreTrainedTokenizerFast:
    """XLM-R's form: a unigram model of pieces that begin with ▁, <s> and </s>, and no [CLS] in the vocabulary."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = ["▁", "▁que", "ry", ":", *sorted({character for text in TEXTS for character in text})]
    scores = [(piece, 0.0) for piece in special] + [(piece, -1.0 - len(piece) / 10) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram([*scores, ("<mask>", 0.0)], 3, False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    named = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    options = {f"{name}_token": token for name, token in named.items()}
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **options)


def save_sentence_encoder(folder: Path, kind: str = "bert", pooling: str | None = None, layers: int = 2) -> Path:
    """A text tower without a masked-language head, in E5's form.

    Args:
        pooling: what sentence-transformers' file of it says, if there is one.
    """
    tokenizer = sentencepiece_like()
    fields = TEXT | {"vocab_size": len(tokenizer), "pad_token_id": 1, "max_position_embeddings": 66}
    fields["num_hidden_layers"] = layers
    kinds: dict[str, Any] = {
        "bert": lambda: hf.BertModel(hf.BertConfig(**fields), add_pooling_layer=False),
        "xlm-roberta": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**fields), add_pooling_layer=False),
    }
    made(kinds[kind]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if pooling:
        (folder / "1_Pooling").mkdir()
        modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False} | {f"pooling_mode_{pooling}": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32} | modes))
    return folder
