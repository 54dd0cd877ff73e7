"""Right answers of retrieval where several images have the same text, and ranks where scores tie.

Two conventions, by which reports, results and tables say they were made:

* equal_texts (ours): a text is right for every image that has an equal one (see `ccmb.data.equal_texts`), and such an
  image for the text. Of wrong answers that score as high as the best right one, all count as ranked before it.
* official (that of the released R2D2, of ALBEF before it, and of LAION's CLIP_benchmark): by number alone. Right are an
  image's own texts and a text's own images; an equal text of another image is wrong. Ties are broken by the order of
  the gallery, as a stable argsort read from its end does: the later comes first. So half of the images that share
  their only text with one other image have their own text first, and half have not.

Shapes: Q queries, G items, K candidates, T texts, P pairs, N members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ccmb.data.equal_texts import text_key


@dataclass(frozen=True, slots=True)
class Groups:
    """Members by the group that they belong to: group g has `members[starts[g] : starts[g + 1]]`."""

    members: Tensor
    starts: Tensor

    @staticmethod
    def from_members(group_N: Tensor, member_N: Tensor, count: int) -> Groups:
        """Sort N members into `count` groups."""
        sizes = torch.bincount(group_N, minlength=count)
        return Groups(member_N[group_N.argsort(stable=True)], torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))

    def at(self, group_Q: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) all members of some groups, and the index in `group_Q` of the group of each."""
        start_Q = self.starts[group_Q]
        size_Q = self.starts[group_Q + 1] - start_Q
        group_index_N = torch.arange(len(group_Q)).repeat_interleave(size_Q)
        within_N = torch.arange(len(group_index_N)) - (size_Q.cumsum(0) - size_Q)[group_index_N]
        return self.members[start_Q[group_index_N] + within_N], group_index_N


@dataclass(frozen=True, slots=True)
class EqualTexts:
    """The strings of a gallery's texts, and the images that each fits.

    Attributes:
        string_of_text: (texts,) the number of each text's string, from 0; equal texts have equal ones.
        texts, images: by string; strings: by image.
        count: how many texts are equal to one of another image.
    """

    string_of_text: Tensor
    texts: Groups
    images: Groups
    strings: Groups
    count: int

    def images_of(self, text_Q: Tensor, images: int) -> Tensor:
        """(Q, images) which images fit some texts."""
        image_N, query_N = self.images.at(self.string_of_text[text_Q])
        relevant_QG = torch.zeros(len(text_Q), images, dtype=torch.bool)
        relevant_QG[query_N, image_N] = True
        return relevant_QG

    def texts_of(self, image_Q: Tensor) -> Tensor:
        """(Q, texts) which texts fit some images."""
        string_N, query_N = self.strings.at(image_Q)
        text_M, query_index_M = self.texts.at(string_N)
        relevant_QT = torch.zeros(len(image_Q), len(self.string_of_text), dtype=torch.bool)
        relevant_QT[query_N[query_index_M], text_M] = True
        return relevant_QT


def equal_texts(texts: Sequence[str], image_of_text: Tensor, pairs: Tensor | None = None) -> EqualTexts | None:
    """The equal texts of a gallery; None where no two images have one.

    Args:
        image_of_text: (texts,) each text's image.
        pairs: (P, 2) all texts and images that fit each other, where texts have several images.
    """
    number_of: dict[str, int] = {}
    string_of_text = torch.tensor([number_of.setdefault(text_key(text), len(number_of)) for text in texts])
    if len(number_of) == len(texts):
        return None
    every_T = torch.arange(len(texts))
    if pairs is None:
        pairs = torch.stack([every_T, image_of_text], dim=1)
    string_P, image_P = torch.stack([string_of_text[pairs[:, 0]], pairs[:, 1]], dim=1).unique(dim=0).T
    count = len(number_of)
    images = Groups.from_members(string_P, image_P, count)
    fit_T = torch.bincount(pairs[:, 0], minlength=len(texts))
    shared_T = (images.starts[1:] - images.starts[:-1])[string_of_text] > fit_T
    if not shared_T.any():
        return None
    strings = Groups.from_members(image_P, string_P, int(pairs[:, 1].max()) + 1)
    return EqualTexts(
        string_of_text, Groups.from_members(string_of_text, every_T, count), images, strings, int(shared_T.sum())
    )


def pessimistic_ranks(scores_QG: Tensor, relevant_QG: Tensor) -> Tensor:
    """(Q,) rank from 1 of the best relevant item; irrelevant items of equal score count as ranked before it.

    So a model that scores everything alike, or nothing with a number, gets the worst rank, not the best.
    """
    best_Q1 = scores_QG.masked_fill(~relevant_QG, -torch.inf).amax(1, keepdim=True)
    return 1 + (~(scores_QG < best_Q1) & ~relevant_QG).sum(1)


def ranks_by_order(scores_QK: Tensor, relevant_QK: Tensor, item_QK: Tensor) -> Tensor:
    """(Q,) rank from 1 of the best relevant item; of equal scores the item with the higher number comes first.

    Scores that are no numbers count as the lowest.
    """
    scores_QK = scores_QK.masked_fill(scores_QK.isnan(), -torch.inf)
    best_Q1 = scores_QK.masked_fill(~relevant_QK, -torch.inf).amax(1, keepdim=True)
    tied_QK = scores_QK == best_Q1
    last_Q1 = item_QK.masked_fill(~(tied_QK & relevant_QK), -1).amax(1, keepdim=True)
    return 1 + ((scores_QK > best_Q1) | (tied_QK & (item_QK > last_Q1))).sum(1)
