"""Which answers of retrieval are right where several images have the same text, and how ties count.

Two conventions, by which reports, results and tables say they were made:

* equal_texts (ours): a text is right for every image that has an equal one (see `ccmb.data.equal_texts`), and such an
  image for the text. Of wrong answers that score as high as the best right one, all count as ranked before it.
* official (that of the released R2D2, of ALBEF before it, and of LAION's CLIP_benchmark): by number alone. Right are an
  image's own texts and a text's own images; an equal text of another image is wrong. Ties are broken by the order of
  the gallery, as a stable argsort read from its end does: the later comes first. So half of the images that share
  their only text with one other image have their own text first, and half have not.

Shapes: Q queries, G items, K candidates, P pairs, S strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ccmb.data.equal_texts import text_key


@dataclass(frozen=True, slots=True)
class EqualTexts:
    """The strings of a gallery's texts, and the images that each fits.

    Attributes:
        string_of_text: (texts,) the number of each text's string, from 0; equal texts have equal ones.
        pairs: (P, 2) every string and image that fit each other, each once.
        count: how many texts are equal to one of another image.
    """

    string_of_text: Tensor
    pairs: Tensor
    count: int

    def images_of(self, text_Q: Tensor, images: int) -> Tensor:
        """(Q, images) which images fit some texts."""
        string_U, place_Q = self.string_of_text[text_Q].unique(return_inverse=True)
        row_P = torch.searchsorted(string_U, self.pairs[:, 0].contiguous()).clamp(max=len(string_U) - 1)
        asked_P = string_U[row_P] == self.pairs[:, 0]
        relevant_UG = torch.zeros(len(string_U), images, dtype=torch.bool)
        relevant_UG[row_P[asked_P], self.pairs[asked_P, 1]] = True
        return relevant_UG[place_Q]

    def texts_of(self, image_Q: Tensor) -> Tensor:
        """(Q, texts) which texts fit some images, whose numbers follow one another."""
        first, last = image_Q[0], image_Q[-1]
        pairs = self.pairs[(self.pairs[:, 1] >= first) & (self.pairs[:, 1] <= last)]
        relevant_QS = torch.zeros(len(image_Q), int(self.string_of_text.max()) + 1, dtype=torch.bool)
        relevant_QS[pairs[:, 1] - first, pairs[:, 0]] = True
        return relevant_QS[:, self.string_of_text]


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
    if pairs is None:
        pairs = torch.stack([torch.arange(len(texts)), image_of_text], dim=1)
    unique = torch.stack([string_of_text[pairs[:, 0]], pairs[:, 1]], dim=1).unique(dim=0)
    images_of_text = torch.bincount(pairs[:, 0], minlength=len(texts))
    shared = torch.bincount(unique[:, 0], minlength=len(number_of))[string_of_text] > images_of_text
    return EqualTexts(string_of_text, unique, int(shared.sum())) if shared.any() else None


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
