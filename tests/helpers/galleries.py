""""""

from __future__ import annotations

from torch import Tensor

from ccmb.inference.gallery import Gallery, encode_gallery
from ccmb.inference.stages import R2D2Encoder
from ccmb.inference.two_stage import Direction
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.towers.two_towers import TowerOutput
from tests.helpers.tiny import TEXTS, tiny_images, tiny_processor


class Scores:
    """A second stage that knows the score of every pair, as (texts, images)."""

    can_rank, cascade = True, None

    def __init__(self, final_TG: Tensor) -> None:
        self.final_TG = final_TG

    def rank_scores(
        self, images: TowerOutput, texts: TowerOutput, image_index_N: Tensor, text_index_N: Tensor, cosine_N: Tensor
    ) -> Tensor:
        return self.final_TG[text_index_N, image_index_N]


TEXTS_OF = [TEXTS[:2], TEXTS[2:3], TEXTS[3:6], TEXTS[6:7], TEXTS[7:8]]


DIRECTIONS: tuple[Direction, ...] = ("text_to_image", "image_to_text")


def gallery_of(model: R2D2Model, batch: int = 128) -> Gallery:
    images = tiny_images(len(TEXTS_OF))
    return encode_gallery(R2D2Encoder(model, tiny_processor()), range(len(images)), TEXTS_OF, images.__getitem__, batch)
