"""Tokenizers: published ones, and one that is trained offline on the texts of a run from scratch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ccmb.core.errors import CcmbError, one_line
from ccmb.core.text.files import text_lines

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
LADDER_STEP = 1e-4


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """A published tokenizer: BERT's `vocab.txt` (lower-casing, as all Chinese ones do), a folder, or a hub id.

    Raises:
        CcmbError: there is none, or its files are damaged; the message names the source.
    """
    path = Path(source)
    vocabulary = path / "vocab.txt" if path.is_dir() and not (path / "tokenizer.json").is_file() else path
    try:
        if vocabulary.is_file():
            tokens = list(text_lines(vocabulary))
            if "[CLS]" not in tokens:
                raise ValueError("not a BERT vocabulary, one token a line with [CLS] among them")
            if vocabulary.read_bytes().rstrip(b"\n") == "\n".join(tokens).encode().rstrip(b"\n"):
                return BertTokenizer(vocab=str(vocabulary))
            return BertTokenizer(vocab={token.rstrip(): index for index, token in enumerate(tokens)})
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except Exception as error:  # whatever transformers, the hub and tokenizers make of it
        raise CcmbError(f"{source}: no readable tokenizer ({one_line(error)})") from None


def straighten_quotes(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that reads “ and ” as ", as Chinese-CLIP's training and evaluation do.

    BERT's Chinese vocabulary has no curly quotes. A slow tokenizer, without a backend of `tokenizers`, stays unchanged.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or straightens_quotes(tokenizer):
        return tokenizer
    return _normalized_by(tokenizer, [normalizers.Replace(curly, '"') for curly in _CURLY])


def lower_cased(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that reads texts in lower case. A slow one stays unchanged."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or (backend.normalizer is not None and backend.normalizer.normalize_str("A") == "a"):
        return tokenizer
    return _normalized_by(tokenizer, [normalizers.Lowercase()])


def _normalized_by(tokenizer: Any, first: Sequence[Any]) -> PreTrainedTokenizerFast:
    """A fast tokenizer, before whose own normalizer others are applied."""
    made = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own = [] if made.normalizer is None else [made.normalizer]
    made.normalizer = normalizers.Sequence([*first, *own])
    # A generic class: a model's own class would lose this normalizer when it is read again.
    names = (*SPECIAL, "bos_token", "eos_token")
    special = {name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name) is not None}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=tokenizer.model_max_length, **special)


_CURLY = "“”"
SHORT_PIECE, LONG_PIECE = 2, 12  # longest token in characters, of Chinese and of texts with many letters
MANY_LETTERS = 0.2  # share of the characters
# Han, kana, bopomofo and Hangul, of which one or two characters are a word.
_IDEOGRAPH = re.compile("[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]")


def straightens_quotes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether “ and ” are read as "."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return normalizer is not None and normalizer.normalize_str(_CURLY) == '""'


def train_tokenizer(texts: Iterable[str], vocabulary: int, max_length: int) -> PreTrainedTokenizerFast:
    """A unigram tokenizer over words and characters of the texts.

    BERT's tokenizer makes every Chinese character a token. This one joins characters that often stand together (红色,
    左边), so that sequences are about half as long. Every single character of the texts is a token too, so no word made
    of seen characters is unknown. Where many of them are letters, as of English, Arabic or Russian, pieces of words are
    joined too: a token of two letters says little. The same texts give the same tokenizer.

    Args:
        vocabulary: the maximum number of tokens, special ones and single characters included.
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
            max_piece_length=LONG_PIECE if _share_of_letters(texts) > MANY_LETTERS else SHORT_PIECE,
            show_progress=False,
        ),
    )
    tokenizer.model = _repeatable(tokenizer, len(characters))
    start, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", start), ("[SEP]", end)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **SPECIAL)


def _share_of_letters(texts: Sequence[str]) -> float:
    """The share of letters of alphabets among the characters that are no blanks."""
    counts = Counter(one for text in texts for one in text if not one.isspace())
    letters = sum(count for one, count in counts.items() if one.isalpha() and not _IDEOGRAPH.match(one))
    return letters / max(1, counts.total())


def _repeatable(tokenizer: Tokenizer, characters: int) -> models.Unigram:
    """The trained model in a form that is the same in every run.

    The trainer appends characters that occur only inside longer pieces. Their order is that of a randomly seeded hash
    table, each scores LADDER_STEP above the last, and ties of all other pieces are broken by the same order. Here those
    characters share the lowest score instead, and ties are broken by the piece.
    """
    trained = json.loads(tokenizer.to_str())["model"]
    special, pieces = trained["vocab"][: len(SPECIAL)], trained["vocab"][len(SPECIAL) :]
    lowest = min(score for _, score in pieces)
    top_of_ladder = lowest + LADDER_STEP * (characters + 1)
    scores = {
        piece: round(lowest if len(piece) == 1 and score < top_of_ladder else score, 6) for piece, score in pieces
    }
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return models.Unigram([*map(tuple, special), *ordered], trained["unk_id"], trained["byte_fallback"])
