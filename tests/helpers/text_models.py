"""Small models of texts alone on disk, of sentence-transformers' own classes."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as hf

from tests.helpers.sources import made, save_sentence_encoder, sentencepiece_like


def save_text_encoder(folder: Path) -> Path:
    """A text encoder that no image goes into, with prompts of both sides."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    save_sentence_encoder(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    prompts = {"query": "船", "document": "猫猫"}
    SentenceTransformer(modules=[transformer, pooling], prompts=prompts, device="cpu").save_pretrained(str(folder))
    return folder


def save_text_reranker(folder: Path) -> Path:
    """A BERT that scores pairs of texts by one label."""
    tokenizer = sentencepiece_like()
    config = hf.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        num_labels=1, pad_token_id=1,
    )  # fmt: skip
    model = made(lambda: hf.BertForSequenceClassification(config))
    torch.nn.init.normal_(model.classifier.weight, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
