"""The network of Wukong's released checkpoints, built from the shapes of their tensors (Gu et al. 2022, arXiv
2202.06767).

A CLIP whose text tower reads BERT's tokens, causally. Its tensors are called as in
github.com/huawei-noah/Pretrained-Language-Model (Noah_WuKong).

Shapes: B items, S image tokens, T text tokens, W tower width, D joint width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ccmb.core.errors import CcmbError
from ccmb.r2d2.towers.token_reduction import TokenReduction
from ccmb.r2d2.towers.two_towers import l2_normalize

HEAD = 64  # width of an attention head
RENAMED = ("token_learner", "token_reduction")  # in older files
LEFT_OUT = ("loss.logit_scale",)


class Block(nn.Module):
    """A layer of either tower: attention and a feed-forward part with QuickGELU, each after a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // HEAD, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, states_BSW: Tensor, mask_SS: Tensor | None = None) -> Tensor:
        normed = self.ln_1(states_BSW)
        states_BSW = states_BSW + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask_SS)[0]
        hidden = self.mlp["c_fc"](self.ln_2(states_BSW))
        output: Tensor = states_BSW + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))
        return output


class Blocks(nn.Module):
    """A stack of layers, under the name that the files have for it."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, states_BSW: Tensor, mask_SS: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            states_BSW = block(states_BSW, mask_SS)
        return states_BSW


class Visual(nn.Module):
    def __init__(self, width: int, layers: int, patch: int, tokens: int, dim: int, reduced: int | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Blocks(width, layers)
        self.proj = nn.Parameter(torch.zeros(width, dim))
        self.token_reduction = None if reduced is None else TokenReduction(dim, reduced)

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """(B, 1 + S, D): the class token and those of the image, not normalised."""
        patches = self.conv1(pixels_B3SS).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        states = self.ln_pre(torch.cat([first, patches], 1) + self.positional_embedding)
        tokens = self.ln_post(self.transformer(states)) @ self.proj
        if self.token_reduction is None:
            return tokens
        return torch.cat([tokens[:, :1], self.token_reduction(tokens[:, 1:])], 1)


class Text(Blocks):
    def __init__(self, width: int, layers: int, words: int, tokens: int, dim: int) -> None:
        super().__init__(width, layers)
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.zeros(tokens, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, dim))

    def read(self, input_ids_BT: Tensor) -> Tensor:
        """(B, T, D) the tokens of texts, not normalised; each sees those before it."""
        length = input_ids_BT.shape[1]
        future_TT = torch.ones(length, length, dtype=torch.bool, device=input_ids_BT.device).triu(1)
        states = self.token_embedding(input_ids_BT) + self.positional_embedding[:length]
        tokens: Tensor = self.ln_final(self(states, future_TT)) @ self.text_projection
        return tokens


class WukongNetwork(nn.Module):
    """Both towers.

    Attributes:
        image_size, context_length: pixels of a side, and tokens of a text.
        is_token_wise: whether pairs are scored token by token.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], is_token_wise: bool | None = None) -> None:
        """Args:
        shapes: of the checkpoint's tensors, by name.
        is_token_wise: by default as of the released files: whose joint width is not the text tower's.
        """
        super().__init__()
        width, _, patch, _ = shapes["visual.conv1.weight"]
        tokens = shapes["visual.positional_embedding"][0]
        words, text_width = shapes["transformer.token_embedding.weight"]
        dim, context = shapes["visual.proj"][1], shapes["transformer.positional_embedding"][0]
        maps = shapes.get("visual.token_reduction.attention_maps.1.weight")
        self.visual = Visual(
            width,
            layers=_count(shapes, "visual.transformer"),
            patch=patch,
            tokens=tokens,
            dim=dim,
            reduced=None if maps is None else maps[0],
        )
        self.transformer = Text(text_width, layers=_count(shapes, "transformer"), words=words, tokens=context, dim=dim)
        self.image_size, self.context_length, self.dim = patch * round((tokens - 1) ** 0.5), context, dim
        self.is_token_wise = (maps is not None or dim != text_width) if is_token_wise is None else is_token_wise

    def images(self, pixels_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings (B, D) of images, and their tokens (B, S, D), L2-normalised."""
        tokens = self.visual(pixels_B3SS)
        if not self.is_token_wise:
            return l2_normalize(tokens[:, 0]), tokens[:, :0]
        image_tokens = l2_normalize(tokens[:, 1:])
        return l2_normalize(image_tokens.mean(1)), image_tokens

    def texts(self, input_ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The same of texts; padded tokens are zero."""
        tokens = self.transformer.read(input_ids_BT)
        if not self.is_token_wise:
            last_B = mask_BT.sum(1) - 1
            return l2_normalize(tokens[torch.arange(len(tokens)), last_B]), tokens[:, :0]
        text_tokens = l2_normalize(tokens) * mask_BT[..., None]
        return l2_normalize(text_tokens.sum(1)), text_tokens


def wukong_network(name: str, content: Mapping[str, object], is_token_wise: bool | None = None) -> WukongNetwork:
    """The network of a file's content, with its weights in float32.

    Raises:
        CcmbError: it is none of Wukong's, or tensors are missing or of other shapes; the message names one.
    """
    inner = content.get("state_dict", content)
    state = {
        key.replace(*RENAMED): value.float()
        for key, value in (inner if isinstance(inner, Mapping) else {}).items()
        if isinstance(value, Tensor) and key not in LEFT_OUT
    }
    try:
        network = WukongNetwork({key: tuple(value.shape) for key, value in state.items()}, is_token_wise)
        network.load_state_dict(state)
    except KeyError as error:
        raise CcmbError(f"{name}: lacks the tensor {error.args[0]}; it is none of Wukong's checkpoints") from None
    except (RuntimeError, ValueError, TypeError) as error:
        raise CcmbError(f"{name}: not a whole checkpoint of Wukong ({str(error).splitlines()[0]})") from None
    return network.eval()


def _count(shapes: Mapping[str, tuple[int, ...]], stack: str) -> int:
    """The number of layers of a stack."""
    pattern = re.compile(re.escape(stack) + r"\.resblocks\.(\d+)\.")
    numbers = {int(match[1]) for key in shapes if (match := pattern.match(key))}
    if not numbers:
        raise KeyError(f"{stack}.resblocks.0.attn.in_proj_weight")
    return max(numbers) + 1
