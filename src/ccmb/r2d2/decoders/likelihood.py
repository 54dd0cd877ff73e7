"""A second stage by likelihood: how much more probable an image makes a text than it is anyway.

A causal decoder predicts each token of a text from those before it and from the image, and learns the same without an
image. The log-odds of a match are log p(text | image) - log p(text): what Bayes' rule says of two candidates of which
one is the source of the text and one has nothing to do with it. Each text is a dozen targets, where a match head has
one bit, so that it learns from few pairs. Captioning as an objective beside the contrastive one is CoCa's (Yu et al.
2022, arXiv 2205.01917); ranking by likelihood over prior is VisualGPTScore's (Lin et al. 2024, arXiv 2306.01879).
The paper has neither.

Shapes: V images, S image tokens, C their width, U texts, N pairs or texts, T text tokens, M target tokens, W width,
P tokens of the text tower's vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.decoders.caption_decoder import CaptionDecoder, KeysValues

SHARED = 8  # texts an image from which on each image has calls of its own
LENGTH_GROUPS = 4  # groups of texts of similar length
CHUNK = 64  # pairs at a time: the logits of more do not fit into a processor's caches
EMBEDDING_STD = 0.1
UNKNOWN = 0  # row of the tokens that no text of the training has
# Share of a text's tokens that the decoder has to know. Of texts in a language that it was trained on, with the most
# frequent tokens alone, one in a hundred has fewer; of texts in other languages nearly all have.
KNOWN = 0.6


class TextLikelihood(nn.Module):
    """The log-likelihood of texts, given images and without.

    It knows the tokens that `begin` is given, which saves most of a multilingual vocabulary.

    Attributes:
        row_of_token: (P,) the decoder's own number of each token; UNKNOWN for those that it does not know.
        no_image: (1, 1, C) a learned token that stands for an image where there is none.
    """

    row_of_token: Tensor

    def __init__(self, config: R2D2Config) -> None:
        super().__init__()
        self.decoder = CaptionDecoder(
            config, 0, config.decoder_layers, vocab_size=config.decoder_vocab_size, dropout=config.cross_dropout
        )
        self.no_image = nn.Parameter(torch.zeros(1, 1, config.image_width))
        self.register_buffer("row_of_token", torch.zeros(config.text_config.vocab_size, dtype=torch.long))
        self.skipped = config.decoder_skipped_tokens

    @torch.no_grad()
    def begin(self, word_embeddings_PW: Tensor, tokens: Sequence[int]) -> None:
        """Start from the text tower's word embeddings.

        Args:
            tokens: those to know, one less than `decoder_vocab_size`.
        """
        known = torch.tensor(tokens)
        rows = self.decoder.word_embeddings.weight
        self.row_of_token.fill_(UNKNOWN)
        self.row_of_token[known] = torch.arange(1, len(rows))
        rows[UNKNOWN] = word_embeddings_PW.mean(0)
        rows[1:] = word_embeddings_PW[known]
        # Sentence encoders' embeddings lie close together: centred, they tell words apart. Their size is the logits'.
        rows.sub_(rows.mean(0))
        rows.mul_(EMBEDDING_STD / rows.std())
        nn.init.normal_(self.decoder.position_embeddings.weight, std=0.02)

    def forward(
        self,
        input_ids_UT: Tensor,
        mask_UT: Tensor,
        states_VSC: Tensor | None = None,
        image_index_U: Tensor | None = None,
    ) -> Tensor:
        """(U,) log-likelihood of each text, given the image at its index, or without an image.

        Args:
            input_ids_UT, mask_UT: texts, padded on the right.
            states_VSC: token states of images; None: there are none.
            image_index_U: the image of each text; V stands for no image.
        """
        # Attention to equal tokens is attention to one of them.
        states = self.no_image if states_VSC is None else self.no_image.expand(1, states_VSC.shape[1], -1)
        if states_VSC is not None:
            states = torch.cat([states_VSC.to(states.dtype), states])
        if image_index_U is None:
            image_index_U = torch.full_like(input_ids_UT[:, 0], states.shape[0] - 1)
        tokens, real = self._own_tokens(input_ids_UT, mask_UT)
        seen = self.decoder.see(states)
        if torch.jit.is_tracing():
            return self._read(tokens, real, seen, image_index_U)
        return self._by_length(tokens, real, seen, image_index_U)

    def knows(self, input_ids_UT: Tensor, mask_UT: Tensor) -> Tensor:
        """(U,) whether it knows so many of each text's tokens, as of its own languages, that it has a say about it."""
        tokens, real = self._own_tokens(input_ids_UT, mask_UT)
        is_target = real[:, 1:].bool()
        known_U = ((tokens[:, 1:] != UNKNOWN) & is_target).sum(1) - 1  # without the last one, which all have
        return known_U >= KNOWN * (is_target.sum(1) - 1)

    def pairs(
        self, input_ids_UT: Tensor, mask_UT: Tensor, states_VSC: Tensor, image_index_N: Tensor, text_index_N: Tensor
    ) -> Tensor:
        """(N,) log p(text | image) of pairs picked by index."""
        if torch.jit.is_tracing():  # a graph has no loop
            return self(input_ids_UT[text_index_N], mask_UT[text_index_N], states_VSC, image_index_N)
        return self._in_chunks(input_ids_UT[text_index_N], mask_UT[text_index_N], states_VSC, image_index_N)

    def _in_chunks(self, input_ids: Tensor, mask: Tensor, states_VSC: Tensor, image_index: Tensor) -> Tensor:
        """(N,) log-likelihood of texts, each with its image; fastest where the texts of an image stand together."""
        tokens, real = self._own_tokens(input_ids, mask)
        seen, parts = self.decoder.see(states_VSC.to(self.no_image.dtype)), [states_VSC.new_empty(0)]
        images, counts = image_index.unique_consecutive(return_counts=True)
        shared = len(image_index) >= SHARED * len(images)
        for rows in torch.arange(len(tokens)).split(counts.tolist() if shared else max(1, len(tokens))):
            for some in rows.to(tokens.device).split(CHUNK):
                index = image_index[some[:1]] if shared else image_index[some]  # of one image nothing is copied
                parts.append(self._read(tokens[some], real[some], seen, index))
        return torch.cat(parts)

    def _by_length(self, tokens: Tensor, real: Tensor, seen: Sequence[KeysValues], image_index: Tensor) -> Tensor:
        """(U,) log-likelihood of texts, read in groups of similar length, so that little padding is computed.

        The number of groups depends on nothing but U: sharded weights are gathered equally often by all processes.
        """
        groups = [rows for rows in real.sum(1).argsort(stable=True).tensor_split(LENGTH_GROUPS) if len(rows)]
        parts = [self._read(tokens[rows], real[rows], seen, image_index[rows]) for rows in groups]
        return torch.cat(parts)[torch.cat(groups).argsort()]

    def _own_tokens(self, input_ids_UT: Tensor, mask_UT: Tensor) -> tuple[Tensor, Tensor]:
        """Texts in the decoder's own tokens, and their mask, without the prefix that all have."""
        ids_UT, mask_UT = (torch.cat([part[:, :1], part[:, 1 + self.skipped :]], 1) for part in (input_ids_UT, mask_UT))
        return self.row_of_token[ids_UT], mask_UT

    def _read(self, tokens: Tensor, real: Tensor, seen: Sequence[KeysValues], image_index: Tensor) -> Tensor:
        """(N,) log-likelihood of texts in the decoder's own tokens, each with its image, or all with a single one."""
        own = [(keys.index_select(0, image_index), values.index_select(0, image_index)) for keys, values in seen]
        if not torch.jit.is_tracing():  # a graph takes texts of any length
            longest = int(real.sum(1).max())
            tokens, real = tokens[:, :longest], real[:, :longest]
        is_target, targets = real[:, 1:].bool(), tokens[:, 1:]
        states, _ = self.decoder(tokens[:, :-1], own)
        if torch.jit.is_tracing():  # a graph has no boolean index
            log_p = self.decoder.logits(states).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
            return (log_p * is_target).sum(1)
        logits_MP = self.decoder.logits(states[is_target])
        log_p_M = -F.cross_entropy(logits_MP, targets[is_target], reduction="none")
        return log_p_M.new_zeros(len(tokens)).index_add(0, is_target.nonzero()[:, 0], log_p_M)
