"""Two-stage retrieval: pre-ranking by cosine, ranking of the top k by the model's rule (see `ccmb.r2d2.ranking`).

Shapes: Q queries, G gallery items, K candidates per query. Nothing of size Q x G is ever held: queries go in chunks,
the smaller the larger the gallery, and only their best K candidates and the place of the right answers are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from ccmb.choices import Convention
from ccmb.progress import Advance, progress
from ccmb.r2d2.items import Items
from ccmb.r2d2.modeling import TowerOutput
from ccmb.r2d2.network import Network
from ccmb.r2d2.processing import R2D2Processor
from ccmb.tasks.answers import EqualTexts, equal_texts, pessimistic_ranks, ranks_by_order
from ccmb.tasks.candidates import Candidates, candidate_scores, pairs_to_rank
from ccmb.tasks.resampling import DRAWS, draw_means, gain
from ccmb.tasks.two_stage import Encoder, Load, R2D2Encoder, R2D2Ranker, Ranker

RECALLS = (1, 5, 10)
COSINES = 2**19  # held at a time
BLOCK = 2**12  # gallery items whose embeddings are read at a time
PAIRS = 2**17  # candidates that are put in the second stage's own order at a time
Direction = Literal["text_to_image", "image_to_text"]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Encoded pictures and texts.

    Attributes:
        images: G pictures.
        texts: all texts; those of one picture stand together.
        image_of_text: (texts,) index of each text's picture, or of the first of several.
        pairs: (P, 2) indices of every text and picture that fit each other, where texts have several pictures; None
            where each has one.
        equal: the texts that several images have, where `convention` calls them right.
        convention: which answers are right and how ties count, see `ccmb.tasks.answers`.
    """

    images: Items
    texts: Items
    image_of_text: Tensor
    pairs: Tensor | None = None
    equal: EqualTexts | None = None
    convention: Convention = "equal_texts"

    def judged(self, texts: Sequence[str], convention: Convention = "equal_texts") -> Gallery:
        """The gallery with its answers judged by a convention; `texts` are all of its texts in order."""
        equal = equal_texts(texts, self.image_of_text, self.pairs) if convention == "equal_texts" else None
        return replace(self, equal=equal, convention=convention)

    def ranks(self, scores_QK: Tensor, relevant_QK: Tensor, item_QK: Tensor) -> Tensor:
        """(Q,) rank from 1 of the best right one of some items, given by their scores and numbers."""
        if self.convention == "official":
            return ranks_by_order(scores_QK, relevant_QK, item_QK)
        return pessimistic_ranks(scores_QK, relevant_QK)

    def relevant(self, by_text: bool, index_Q: Tensor) -> Tensor:
        """(Q, G) which pictures fit the texts of a run of indices; or by picture, which texts."""
        if self.equal is not None:
            return self.equal.images_of(index_Q, len(self.images)) if by_text else self.equal.texts_of(index_Q)
        if self.pairs is None:
            if by_text:
                return self.image_of_text[index_Q, None] == torch.arange(len(self.images))
            return self.image_of_text[None, :] == index_Q[:, None]
        queries, items = self.pairs.T if by_text else self.pairs.flip(1).T
        here = (queries >= index_Q[0]) & (queries <= index_Q[-1])
        relevant_QG = torch.zeros(len(index_Q), len(self.images if by_text else self.texts), dtype=torch.bool)
        relevant_QG[queries[here] - index_Q[0], items[here]] = True
        return relevant_QG


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank of the best right answer of every query, from 1; beyond K in the second stage it stays as pre-ranked.

    Attributes:
        pre_ranking, ranking: (Q,) integer ranks; `ranking` is None for a model without cross encoders.
    """

    pre_ranking: Tensor
    ranking: Tensor | None


def encode_gallery(
    model: Network,
    processor: R2D2Processor,
    images: Sequence[Any],
    texts: Sequence[Sequence[str]],
    load: Load,
    batch: int = 128,
    convention: Convention = "equal_texts",
) -> Gallery:
    """Encode G pictures (opened by `load`) and their texts, one or several a picture."""
    return encode_gallery_with(R2D2Encoder(model, processor), images, texts, load, batch).judged(
        [text for of_image in texts for text in of_image], convention
    )


def encode_gallery_with(
    encoder: Encoder, images: Sequence[Any], texts: Sequence[Sequence[str]], load: Load, batch: int = 128
) -> Gallery:
    """The same with any encoder; whose answers are right is yet to be judged, see `Gallery.judged`."""
    flat = [text for of_image in texts for text in of_image]
    image_of_text = torch.tensor([index for index, of_image in enumerate(texts) for _ in of_image])
    with progress("encode", len(images) + len(flat), "items") as advance:
        of_images = TowerOutput.cat(list(image_batches(encoder, images, load, batch, advance)))
        places, parts = zip(*text_batches(encoder, flat, batch, advance), strict=True)
        of_texts = TowerOutput.cat(list(parts))[torch.cat(places).argsort()]
        return Gallery(of_images, of_texts, image_of_text)


def image_batches(
    encoder: Encoder, images: Sequence[Any], load: Load, batch: int, advance: Advance
) -> Iterator[TowerOutput]:
    """Pictures encoded in their order."""
    for start in range(0, len(images), batch):
        yield encoder.encode_images(images[start : start + batch], load)
        advance(min(batch, len(images) - start), "")


def text_batches(
    encoder: Encoder, texts: Sequence[str], batch: int, advance: Advance
) -> Iterator[tuple[Tensor, TowerOutput]]:
    """Texts encoded with their places; those of like length share a batch, so that little padding is computed."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        yield torch.tensor(places), encoder.encode_texts([texts[place] for place in places])
        advance(len(places), "")


def two_stage_ranks(
    model: Network | Ranker, gallery: Gallery, direction: Direction, depth: int, chunk: int = 64
) -> Ranks:
    """Ranks of both stages for every query of one direction.

    Args:
        depth: K >= 1, how many candidates of the first stage the second one ranks.
        chunk: most queries whose cosines are computed at a time; fewer in a large gallery.
    """
    ranker = R2D2Ranker(cast(Network, model)) if isinstance(model, nn.Module) else cast(Ranker, model)
    by_text = direction == "text_to_image"
    queries, items = (gallery.texts, gallery.images) if by_text else (gallery.images, gallery.texts)
    depth = min(depth, len(items))
    chunk = max(1, min(chunk, COSINES // len(items)))
    first, second = [], []
    each, unit = (pairs_to_rank(ranker, depth), "pairs") if ranker.can_rank else (1, "queries")
    with torch.inference_mode(), progress(direction.replace("_", " "), each * len(queries), unit) as advance:
        # Of many queries together, for they share pictures.
        for index_Q in torch.arange(len(queries)).split(max(1, PAIRS // depth)):
            found = _first_stage(gallery, by_text, index_Q, depth, chunk)
            first.append(found.first_Q)
            if ranker.can_rank:
                scores_QK = candidate_scores(ranker, gallery, by_text, found, advance)
                ranks_Q = gallery.ranks(scores_QK, found.relevant_QK, found.item_QK)
                # Where no right answer is within K its first rank stays; so it does where only a tie at place K let
                # one in.
                second.append(torch.where(found.first_Q <= depth, ranks_Q, found.first_Q))
            else:
                advance(len(index_Q), "")
    return Ranks(torch.cat(first), torch.cat(second) if second else None)


def _first_stage(gallery: Gallery, by_text: bool, query_Q: Tensor, depth: int, chunk: int) -> Candidates:
    queries, items = (gallery.texts, gallery.images) if by_text else (gallery.images, gallery.texts)
    found = Candidates.empty(query_Q, depth)
    # Filled in place: small pieces that are kept would stand between large ones that are not, and memory would grow.
    for rows in torch.arange(len(query_Q)).split(chunk):
        query_C = query_Q[rows]
        query_CD = queries.embeds(slice(int(query_C[0]), int(query_C[-1]) + 1))
        cosine_CG = query_CD.new_empty(len(rows), len(items))
        for start in range(0, len(items), BLOCK):
            block = slice(start, start + BLOCK)
            cosine_CG[:, block] = query_CD @ items.embeds(block).T
        relevant_CG = gallery.relevant(by_text, query_C)
        top = cosine_CG.topk(depth, dim=1)
        found.item_QK[rows], found.cosine_QK[rows] = top.indices, top.values
        found.relevant_QK[rows] = relevant_CG.gather(1, top.indices)
        item_CG = torch.arange(len(items)).expand_as(cosine_CG)
        found.first_Q[rows] = gallery.ranks(cosine_CG, relevant_CG, item_CG)
    return found


def recalls(ranks_Q: Tensor) -> dict[str, float]:
    """R@1, R@5 and R@10 in percent."""
    return {name: round(value, 2) for name, value in zip(_NAMES, raw_recalls(ranks_Q), strict=True)}


_NAMES = tuple(f"R@{k}" for k in RECALLS)


def raw_recalls(ranks_Q: Tensor) -> list[float]:
    """R@1, R@5 and R@10 in percent, not rounded."""
    return [100 * float((ranks_Q <= k).double().mean()) for k in RECALLS]


def mean_recall(ranks_of: Iterable[Tensor]) -> float | None:
    """The mean of all recalls of one stage in percent, not rounded; None where there are none.

    Args:
        ranks_of: (Q,) of each direction.
    """
    values = [value for ranks_Q in ranks_of for value in raw_recalls(ranks_Q)]
    return sum(values) / len(values) if values else None


def bootstrap_gain(
    before_Q: Tensor, after_Q: Tensor, unit_Q: Tensor | None = None, draws: int = DRAWS, seed: int = 0
) -> dict[str, float]:
    """Mean and 95 % interval of the gain in R@1 in points.

    Args:
        unit_Q: what each query is drawn with, such as the image of a text, whose texts hang together; by default
            each is drawn alone.
    """
    unit_Q = torch.arange(len(before_Q)) if unit_Q is None else unit_Q
    difference_Q = 100 * ((after_Q <= 1).double() - (before_Q <= 1).double())
    count_G = torch.bincount(unit_Q).double()
    sums_G = torch.zeros_like(count_G).index_add_(0, unit_Q, difference_Q)
    drawn = draw_means(sums_G[:, None].numpy(), count_G[:, None].numpy(), draws, seed)[:, 0]
    return gain(float(difference_Q.mean()), drawn, int((count_G > 0).sum()))


def retrieval_report(model: Network | Ranker, gallery: Gallery, depth: int) -> dict[str, Any]:
    """Both stages in both directions, mean recall, and what ranking gains."""
    return report_of_ranks(ranks_both_ways(model, gallery, depth), gallery, depth)


def ranks_both_ways(model: Network | Ranker, gallery: Gallery, depth: int) -> dict[Direction, Ranks]:
    """Ranks of every text among the pictures and of every picture among the texts.

    Where texts have several pictures, or pictures none, only those of the texts, as of MUGE.
    """
    directions: tuple[Direction, ...] = ("text_to_image", "image_to_text")
    if gallery.pairs is not None:
        directions = directions[:1]
    return {direction: two_stage_ranks(model, gallery, direction, depth) for direction in directions}


def report_of_ranks(ranks_of: dict[Direction, Ranks], gallery: Gallery, depth: int) -> dict[str, Any]:
    """The report of ranks that are known already."""
    report: dict[str, Any] = {"gallery": len(gallery.images), "texts": len(gallery.texts), "depth": depth}
    report["convention"] = gallery.convention
    report["equal_texts"] = 0 if gallery.equal is None else gallery.equal.count
    by_stage: dict[str, list[Tensor]] = {"pre_ranking": [], "ranking": []}
    for direction, ranks in ranks_of.items():
        report[direction] = {}
        for stage, of_stage in (("pre_ranking", ranks.pre_ranking), ("ranking", ranks.ranking)):
            report[direction][stage] = None if of_stage is None else recalls(of_stage)
            if of_stage is not None:
                by_stage[stage].append(of_stage)
        if ranks.ranking is not None and direction == "text_to_image":
            report["gain_R@1"] = bootstrap_gain(ranks.pre_ranking, ranks.ranking, drawn_with(gallery))
    means = {stage: mean_recall(of) for stage, of in by_stage.items()}
    report["mean_recall"] = {stage: None if mean is None else round(mean, 2) for stage, mean in means.items()}
    return report


def drawn_with(gallery: Gallery) -> Tensor:
    """(texts,) with what each text is drawn by the bootstrap: its picture, or where it has several, itself."""
    return gallery.image_of_text if gallery.pairs is None else torch.arange(len(gallery.texts))


def hits_by_image(ranks_of: Mapping[Direction, Tensor], image_of_text: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Hits within each k, and queries, of every picture in every direction: (directions, G, 3) and (directions, G).

    Args:
        ranks_of: (Q,) ranks of one stage by direction; the queries of a picture are its texts, or itself.
        image_of_text: (texts,) index of each text's picture; or of what else is drawn as one.
    """
    count = int(image_of_text.max()) + 1
    hits, queries = [], []
    for direction, ranks_Q in ranks_of.items():
        image_Q = image_of_text if direction == "text_to_image" else torch.arange(count)
        within_Q3 = (ranks_Q[:, None] <= torch.tensor(RECALLS)).double()
        hits.append(torch.zeros(count, len(RECALLS), dtype=torch.double).index_add_(0, image_Q, within_Q3).numpy())
        queries.append(torch.bincount(image_Q, minlength=count).double().numpy())
    return np.stack(hits), np.stack(queries)


def bootstrap_recalls(hits_DG3: np.ndarray, queries_DG: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(draws, directions, 3) recalls in percent of pictures drawn with replacement, each with all its queries.

    Texts of one picture hang together, so that it is pictures that are drawn. Equal seeds draw the same pictures of
    galleries of one size: differences between models are then paired.
    """
    hits_GK = np.concatenate(list(hits_DG3), axis=1)
    queries_GK = np.repeat(queries_DG.T, len(RECALLS), axis=1)
    return 100 * draw_means(hits_GK, queries_GK, draws, seed).reshape(-1, len(hits_DG3), len(RECALLS))
