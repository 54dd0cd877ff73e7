"""Wukong's released checkpoints by name: `wukong:FILE.ckpt?tokenizer=vocab.txt`, global, token-wise, and reduced.

A global one orders by cosine. A token-wise one pre-ranks by the cosine of its tokens' means, our choice, and ranks by
late interaction, in which padding counts as in its authors' code (`ccmb.core.choices.Padding`) unless
`padding=exact` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ccmb.core.choices import Padding
from ccmb.core.device import choose_device
from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference.models.base import OneStage, context_within, fingerprint
from ccmb.inference.models.late import LateInteraction, TwoStagesOfOne
from ccmb.inference.models.sentence_transformers import options_of
from ccmb.inference.models.wukong_network import WukongNetwork, wukong_network
from ccmb.inference.user_images import open_image
from ccmb.r2d2.folders.checkpoint_files import read_file
from ccmb.r2d2.official import TOKENIZER
from ccmb.r2d2.processing import ImageInput
from ccmb.r2d2.tokenizer import load_tokenizer
from ccmb.r2d2.towers.two_towers import TowerOutput

WUKONG = "wukong:"
OPTIONS = ("tokenizer", "similarity", "padding")
SIMILARITIES = {"global": False, "token_wise": True}
PAD = 0  # the files' texts are padded with it, and it is no token of a text


class WukongModel(OneStage):
    """The first stage: embeddings of images and texts; token states lie beside them if the model is token-wise."""

    kind = "wukong"

    def __init__(self, name: str, source: str, context_length: int | None = None) -> None:
        """Open a file.

        Args:
            source: what follows the prefix: the file, and as options `tokenizer`, a vocab.txt, a folder or a hub id,
                `similarity`, global or token_wise, where the file's own is not what its shapes say, and `padding`,
                official or exact.

        Raises:
            UsageError: an option is unknown, or the context length is none of the model's.
            CcmbError: the file is none of Wukong's, or the tokenizer is another model's.
        """
        path, options = options_of(name, source, OPTIONS)
        similarity = options.get("similarity")
        if similarity is not None and similarity not in SIMILARITIES:
            raise UsageError(f"{name}: similarity={similarity}; there are {', '.join(SIMILARITIES)}")
        padding = options.get("padding", "official")
        if padding not in get_args(Padding):
            raise UsageError(f"{name}: padding={padding}; there are {', '.join(get_args(Padding))}")
        self.padding = cast(Padding, padding)
        self.network: WukongNetwork = wukong_network(
            path, read_file(path), None if similarity is None else SIMILARITIES[similarity]
        )
        where = options.get("tokenizer", TOKENIZER)
        self._tokenizer, words = load_tokenizer(where), self.network.transformer.token_embedding.num_embeddings
        if len(self._tokenizer) != words:
            raise CcmbError(f"{where}: has {len(self._tokenizer):,} tokens, but the checkpoint has {words:,}")
        self.name, self.source = name, WUKONG + str(Path(path).resolve()) + source[len(path) :]
        longest = self.network.context_length
        self.context_length: int | None = context_within(name, context_length, longest, longest)
        size = self.network.image_size
        self._images = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        if "padding" in options and not self.network.is_token_wise:
            raise UsageError(f"{name}: padding is of token-wise models, and this one is global; leave it out")
        tokens = [True, padding] if self.network.is_token_wise else [False]
        settings = {"kind": self.kind, "settings": [vocabulary, self.context_length, *tokens]}
        self.fingerprint = fingerprint(self.network, settings)
        self._model = self.network.to(choose_device("auto"))

    def prepare(self, image: ImageInput) -> Tensor:
        pixels: Tensor = self._images(images=[open_image(image)], return_tensors="pt")["pixel_values"]
        return pixels

    def encode_prepared(self, images: Sequence[Tensor]) -> TowerOutput:
        with torch.inference_mode():
            embed_BD, tokens_BSD = self.network.images(torch.cat(list(images)).to(choose_device("auto")))
        return TowerOutput(embed_BD.cpu(), tokens_BSD.cpu())

    def encode_texts(self, texts: Sequence[str]) -> TowerOutput:
        # Its authors pad every text to the whole length, and a text's padding is a partner of an image's tokens.
        padded = "max_length" if self.network.is_token_wise and self.padding == "official" else "longest"
        encoded = self._tokenizer(
            list(texts), padding=padded, truncation=True, max_length=self.context_length, return_tensors="pt"
        )
        ids_BT = encoded["input_ids"].to(choose_device("auto"))
        mask_BT = (ids_BT != PAD).long()
        with torch.inference_mode():
            embed_BD, tokens_BTD = self.network.texts(ids_BT, mask_BT)
        mask = mask_BT.cpu() if self.network.is_token_wise else None
        return TowerOutput(embed_BD.cpu(), tokens_BTD.cpu(), mask)

    def count_tokens(self, texts: Sequence[str]) -> int:
        return sum(map(len, self._tokenizer(list(texts))["input_ids"])) if texts else 0


class WukongTokenWise(TwoStagesOfOne):
    """Both stages of a token-wise model."""

    kind = "wukong"

    def __init__(self, model: WukongModel) -> None:
        ranker = LateInteraction(
            model,
            name=model.name,
            source=model.source,
            fingerprint=model.fingerprint,
            states_width=model.network.dim,
            padding=model.padding,
        )
        super().__init__(model, ranker, model.name)

    @property
    def fingerprint(self) -> str:
        return self.first.fingerprint


def open_wukong(name: str, source: str, context_length: int | None = None) -> WukongModel | WukongTokenWise:
    """A checkpoint by what follows the prefix; see `WukongModel`."""
    model = WukongModel(name, source, context_length)
    return WukongTokenWise(model) if model.network.is_token_wise else model
