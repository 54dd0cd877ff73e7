"""Tokenizers for runs from scratch, trained offline on the run's own texts."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def train_tokenizer(texts: Iterable[str], vocabulary: int, max_length: int) -> PreTrainedTokenizerFast:
    """A unigram tokenizer over words and characters of the texts.

    Unlike BERT's, which takes every Chinese character for itself, it joins characters that often stand together
    (红色, 左边), so that sequences are about half as long. Every character of the texts stays a token of its own, so
    no word made of seen characters is unknown.

    Args:
        vocabulary: most tokens, special ones and single characters included.
        max_length: longest text in tokens, special ones included.
    """
    texts = list(texts)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.Fuse()
    characters = sorted({c for text in texts for c in tokenizer.normalizer.normalize_str(text) if not c.isspace()})
    tokenizer.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=max(vocabulary, len(characters) + len(SPECIAL) + 1),
            special_tokens=list(SPECIAL.values()),
            unk_token="[UNK]",
            initial_alphabet=characters,
            max_piece_length=2,
            show_progress=False,
        ),
    )
    start, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", start), ("[SEP]", end)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **SPECIAL)
