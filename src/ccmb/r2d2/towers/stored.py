"""What is stored of a frozen tower, or of its frozen lower layers, and how the rest is computed from it.

Of a whole image tower the pooled state is stored, and below it the tokens where cross encoders read them; of a whole
text tower the tokens, or the pooled state alone; of lower layers the states at the boundary.

Shapes: B items, R rows that are stored of an item, W their width, T text tokens, S pixels of a side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.packing import Packing
from ccmb.r2d2.towers.boundary import Boundary, find_boundary, lower_states, taken_up
from ccmb.r2d2.towers.two_towers import TowerOutput, TwoTowers


def image_rows(towers: TwoTowers, pixel_values: Tensor, tokens: bool) -> Tensor:
    """(B, R, W) what is stored of normalised images (B, 3, S, S).

    Args:
        tokens: of a whole tower, whether its token states are stored too.
    """
    if (boundary := towers.image_boundary) is not None:
        states = lower_states(towers.image_tower, boundary, lambda: towers.image_tower(pixel_values=pixel_values))
        return states.reshape(len(pixel_values), 1, -1)
    pooled, states = towers.run_image_tower(pixel_values)
    if not tokens:
        return pooled[:, None]
    return torch.cat([pooled[:, None], states], 1) if towers.image_class_token else states


def image_of_rows(towers: TwoTowers, rows_BRW: Tensor, image_size: int) -> TowerOutput:
    """What `encode_image` gives of images of which these rows are stored."""
    rows_BRW = rows_BRW.to(_weight(towers.image_projection).dtype)
    if (boundary := towers.image_boundary) is not None:
        states = rows_BRW.reshape(-1, *boundary.shape[1:])
        blank = rows_BRW.new_zeros(1, 3, image_size, image_size).expand(len(rows_BRW), -1, -1, -1)
        with taken_up(towers.image_tower, boundary, states):
            return towers.encode_image(blank)
    states = rows_BRW[:, 1:] if towers.image_class_token and rows_BRW.shape[1] > 1 else rows_BRW
    return towers.image_output(rows_BRW[:, 0], states)


def text_rows(towers: TwoTowers, input_ids: Tensor, mask_BT: Tensor, tokens: bool) -> Tensor:
    """(B, T, W) what is stored of texts that are padded on the right: a row for each token, or a single one.

    Args:
        tokens: of a whole tower, whether its token states are stored, and not the pooled state alone.
    """
    if (boundary := towers.text_boundary) is not None:
        packing = towers.packing(mask_BT)
        states = lower_states(towers.text_tower, boundary, lambda: towers.encode_packed(input_ids, mask_BT, packing))
        return states if packing is None else packing.pad(states[0])
    states = towers.run_text_tower(input_ids, mask_BT, towers.packing(mask_BT))
    return states if tokens else towers.pool_text(states, mask_BT)[:, None]


def text_of_rows(
    towers: TwoTowers, input_ids: Tensor, mask_BT: Tensor, rows_BTW: Tensor, packing: Packing | None
) -> TowerOutput:
    """What `encode_packed` gives of texts of which these rows are stored; with a single row the token is the text."""
    rows_BTW = rows_BTW.to(_weight(towers.text_projection).dtype)
    if (boundary := towers.text_boundary) is not None:
        states = rows_BTW if packing is None else packing.pack(rows_BTW)[None]
        with taken_up(towers.text_tower, boundary, states):
            return towers.encode_packed(input_ids, mask_BT, packing)
    if rows_BTW.shape[1] == 1 < mask_BT.shape[1]:
        return towers.text_output(rows_BTW, mask_BT[:, :1], rows_BTW[:, 0])
    return towers.text_output(rows_BTW, mask_BT)


def image_boundary(model: R2D2Model, count: int, image_size: int) -> Boundary | None:
    """The boundary above the image tower's lowest layers, see `find_boundary`; the model must be in evaluation mode."""
    weight = _weight(model.image_projection)
    noise = torch.randn(3, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    several = noise.to(weight.device, weight.dtype)
    one, blank = ({"pixel_values": torch.zeros_like(several[:items])} for items in (1, 3))
    return find_boundary(model.image_tower, count, one=one, several={"pixel_values": several}, stand_in=blank)


def text_boundary(model: R2D2Model, count: int) -> Boundary | None:
    """The boundary above the text tower's lowest layers, likewise."""
    device = _weight(model.text_projection).device
    longest = min(6, model.config.max_text_tokens)
    ids = torch.arange(2 * longest, device=device).view(2, -1) % model.config.text_config.vocab_size
    mask = torch.ones_like(ids)
    mask[1, longest // 2 :] = 0
    one: dict[str, Any] = {"input_ids": ids[:1, :-1], "attention_mask": mask[:1, :-1]}
    several = {"input_ids": ids, "attention_mask": mask}
    boundary = find_boundary(model.text_tower, count, one=one, several=several, stand_in=several)
    # Rows are stored for the tokens that a text has: a tower that pads by itself cannot be taken up from these.
    return boundary if boundary is None or boundary.shape[1] == longest - 1 else None


def _weight(module: nn.Module) -> Tensor:
    return next(module.parameters())
