"""Which things an image of a synthetic scene shows, read from its pixels.

Nothing is trained. Every kind is drawn in every amount, place and size on an empty canvas, and laid over the image.
The gain of a thing is the error of the background's colours minus the error of its own colours, within its outline. Of
all layouts of places, the parser takes the one whose things have the greatest total gain.

Shapes: S side of the image, M drawn masks of a place, O shifts, C colours, R, G, B.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from ccmb.scenes.drawing import (
    ACCENTS,
    FILLS,
    OVERSAMPLING,
    RGB,
    SCALES,
    SHIFT,
    line_of,
    render_copies,
    render_scene,
    stand,
)
from ccmb.scenes.scene import AMOUNTS, BACKGROUNDS, COLOURS, KINDS, LAYOUTS, Amount, Place, Scene, Thing
from ccmb.scenes.texts import PLACES

# How many sizes of a thing are tried, evenly over the sizes that are rendered.
SIZES = 4
# How many empty backgrounds are rendered of each kind, by day and by night, to find the likeliest.
BARE = 4
# The minimum share of the background's error that a thing must explain, and the maximum error of its own pixels: the
# sum of the squares of R, G and B in [0, 1].
MIN_EXPLAINED, MAX_ERROR = 0.1, 0.25
PAINT: tuple[RGB, RGB, RGB] = ((255, 0, 0), (0, 255, 0), (0, 0, 255))  # fill, accent and line of a mask


@dataclass(frozen=True, slots=True)
class SeenThing:
    """A thing in an image.

    Attributes:
        explained: the share by which the colours of the thing reduce the error of the background's colours within its
            outline.
        error: mean squared distance of its pixels from the expected ones; RGB in [0, 1].
    """

    thing: Thing
    explained: float
    error: float


def parse_image(
    image: Image.Image, close_up: bool | None = None, min_explained: float = MIN_EXPLAINED, max_error: float = MAX_ERROR
) -> list[SeenThing]:
    """The things of a square image, in the order of the places: one thing, or those of a scene, or none.

    Args:
        close_up: whether the image shows one thing in the middle, or a scene; None: decide it by the pixels.
        min_explained: the minimum explained share of a thing.
        max_error: the maximum error of a thing.
    """
    pixels = _pixels(image)
    bare = _bare_error(pixels)
    places = [place for place in PLACES if close_up in (None, place == "middle")]
    likeliest = {place: _likeliest(pixels, bare, place) for place in places}
    worth = {
        place: guess[1]
        for place, guess in likeliest.items()
        if guess[0].explained >= min_explained and guess[0].error <= max_error
    }
    layouts = [[place for place in layout if place in worth] for layout in (*LAYOUTS, *zip(places))]
    best = max(layouts, key=lambda layout: sum(worth[place] for place in layout))
    return [likeliest[place][0] for place in best]


def _likeliest(pixels_3SS: Tensor, bare_SS: Tensor, place: Place) -> tuple[SeenThing, float]:
    """The thing with the greatest gain in a place, and its gain.

    Args:
        bare_SS: squared error of the background.
    """
    side = pixels_3SS.shape[-1]
    masks, reach = _masks(side, place), round(SHIFT * side)
    rows, columns = masks.box
    padded = F.pad(torch.cat([pixels_3SS, (bare_SS - pixels_3SS.square().sum(0))[None], bare_SS[None]]), (reach,) * 4)
    window = padded[:, rows.start : rows.stop + 2 * reach, columns.start : columns.stop + 2 * reach]
    # For each part of a mask (fill, accent, line) at each shift, five sums: R, G, B; the background's error minus the
    # squares of R, G, B; and that error.
    seen = F.conv2d(window[:, None], masks.parts_M3HW.flatten(0, 1)[:, None])
    by_part = seen.unflatten(1, (-1, 3)).flatten(3).permute(1, 2, 0, 3)  # (M, 3 parts, 5, O)
    gain_MO, best = by_part[:, :, 3].sum(1), by_part[:, :, 4].sum(1)
    # error of a colour c under weight w: w |I|^2 - 2 w I.c + w |c|^2
    gain_MCO = gain_MO[:, None] + torch.einsum("mpko,mcpk->mco", by_part[:, :, :3], 2 * masks.colours_MC3K)
    gain_MCO = gain_MCO - masks.squares_MC[:, :, None]
    mask, chosen, shift = (int(part_index) for part_index in np.unravel_index(int(gain_MCO.argmax()), gain_MCO.shape))
    gain, missed = float(gain_MCO[mask, chosen, shift]), float(best[mask, shift])
    down, right = divmod(shift, 2 * reach + 1)
    shown_3HW = window[:3, down : down + masks.parts_M3HW.shape[2], right : right + masks.parts_M3HW.shape[3]]
    kind, amount = masks.names[mask]
    colour = COLOURS[_colour(shown_3HW, masks.parts_M3HW[mask], masks.colours_MC3K[mask])]
    error = (missed - gain) / float(masks.parts_M3HW[mask].sum())
    return SeenThing(Thing(kind, colour, amount, place), gain / max(1e-9, missed), error), gain


def _colour(shown_3HW: Tensor, parts_3HW: Tensor, colours_C3K: Tensor) -> int:
    """The index of the fill's colour.

    Outlines tell little: they are one pixel wide and seldom exactly in place. So mostly the pixels inside count.
    """
    weight_HW = parts_3HW[0] ** 3
    whole_HW = parts_3HW.sum(0).clamp(min=1e-6)
    drawn_CKHW = torch.einsum("phw,cpk->ckhw", parts_3HW / whole_HW, colours_C3K)
    apart_CK = ((drawn_CKHW - shown_3HW) * weight_HW).sum((2, 3))
    return int(apart_CK.square().sum(1).argmin())


@dataclass(frozen=True, slots=True)
class _Masks:
    """All things that may stand in a place of an image.

    Attributes:
        names: kind and amount of each of M masks.
        parts_M3HW: how much of each pixel of the box is fill, accent and line.
        box: rows and columns of the box in the image.
        colours_MC3K: RGB of the three parts, for each colour of the thing.
        squares_MC: sum of the squares of the thing's pixels, for each colour.
    """

    names: list[tuple[str, Amount]]
    parts_M3HW: Tensor
    box: tuple[slice, slice]
    colours_MC3K: Tensor
    squares_MC: Tensor


@cache
def _masks(side: int, place: Place) -> _Masks:
    names, parts = list[tuple[str, Amount]](), list[Tensor]()
    for kind, amount, size in product(KINDS, AMOUNTS, np.linspace(*SCALES, SIZES)):
        image = Image.new("RGB", (side * OVERSAMPLING,) * 2)
        centre, reach = stand(place)
        render_copies(
            ImageDraw.Draw(image),
            image.width,
            kind=kind,
            amount=amount,
            centre=centre,
            reach=reach,
            scale=float(size),
            paint=PAINT,
        )
        names.append((kind, amount))
        parts.append(_pixels(image.reduce(OVERSAMPLING)))
    parts_M3SS = torch.stack(parts)
    covered = parts_M3SS.amax((0, 1)) > 0
    rows, columns = (torch.nonzero(covered.any(axis))[:, 0].tolist() for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    parts_M3HW = parts_M3SS[:, :, box[0], box[1]].contiguous()
    colours_MC3K = (
        torch.tensor([[[FILLS[colour], ACCENTS[kind], line_of(colour)] for colour in COLOURS] for kind, _ in names])
        / 255
    )
    squares = list[Tensor]()
    for colours_M3K in colours_MC3K.unbind(1):
        # A pixel that several parts share has their mean colour.
        drawn_MKHW = torch.einsum("mphw,mpk->mkhw", parts_M3HW, colours_M3K)
        mean_MKHW = drawn_MKHW / parts_M3HW.sum(1, keepdim=True).clamp(min=1e-6)
        squares.append((drawn_MKHW * mean_MKHW).sum((1, 2, 3)))
    return _Masks(names, parts_M3HW, box, colours_MC3K, torch.stack(squares, 1))


def _bare_error(pixels_3SS: Tensor) -> Tensor:
    """(S, S) squared error of the likeliest background."""
    error_NSS = (_bare(pixels_3SS.shape[-1]) - pixels_3SS).square().sum(1)
    # Things cover up to a third of the image. The clamp keeps their error from deciding on the background.
    return error_NSS[error_NSS.clamp(max=0.1).sum((1, 2)).argmin()]


@cache
def _bare(side: int) -> Tensor:
    """(N, 3, S, S) empty backgrounds."""
    scenes = [Scene((), background, night) for background in BACKGROUNDS for night in (False, True)]
    drawn = [render_scene(scene, side, random.Random(sample)) for scene in scenes for sample in range(BARE)]
    return torch.stack([_pixels(image) for image in drawn])


def _pixels(image: Image.Image) -> Tensor:
    """(3, S, S) RGB in [0, 1]."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)
