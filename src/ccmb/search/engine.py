"""Two-stage search in an index: pre-ranking by cosine in the store, ranking of the best by the cross encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ccmb.checks import check_min_probability, check_text
from ccmb.errors import CcmbError, UsageError
from ccmb.r2d2.loading import model_folder
from ccmb.r2d2.modeling import TowerOutput
from ccmb.r2d2.network import Network, load_network
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.ranking import rank_pairs, ranking_scores
from ccmb.search.index import IndexRecord
from ccmb.search.sources import Sources
from ccmb.search.store import VectorStore, is_local
from ccmb.training.trainer import inference

BATCH = 64


@dataclass(frozen=True, slots=True)
class Hit:
    """A picture that was found.

    Attributes:
        name, source: its name within the folder or tar `source`.
        cosine: of its embedding with the query's, in [-1, 1].
        score: what hits are ordered by: the cosine, or where the second stage ranked it, its score by the model's rule.
        match: match score with the query text in [0, 1]; None where the second stage did not rank it.
        probability: calibrated one of a match with the text, in [0, 1]; None likewise.
        missing: the picture was to be ranked, but it is gone or unreadable now.
    """

    name: str
    source: Path
    cosine: float
    score: float
    match: float | None = None
    probability: float | None = None
    missing: bool = False


class SearchEngine:
    """An open index and its model, for any number of queries."""

    def __init__(self, store: VectorStore, model: Network, processor: R2D2Processor) -> None:
        self.store, self.model, self.processor = store, model, processor
        self._sources = Sources()

    def search(
        self,
        text: str | None = None,
        picture: Image.Image | None = None,
        k: int = 10,
        depth: int = 64,
        rank: bool = True,
        min_probability: float | None = None,
    ) -> list[Hit]:
        """The best k pictures for a text, a picture or both, best first.

        A text is pre-ranked by cosine, and the best `depth` are ranked by the model's rule. A picture alone is
        pre-ranked only: the cross encoders match pictures with texts. Given both, the mean of the two embeddings
        pre-ranks and the text ranks. A model without cross encoders pre-ranks only. Hits that could not be ranked
        come last.

        Args:
            min_probability: leave out hits whose calibrated probability is less or unknown, be it all of them.

        Raises:
            UsageError: there is neither text nor picture, the text is empty or not UTF-8, or there is a
                `min_probability` outside [0, 1] or without a second stage.
        """
        _check_query(text, picture)
        ranks = rank and text is not None and self.model.can_rank
        _check_second_stage(min_probability, ranks)
        with inference(self.model):
            embeds, encoded_text = [], None
            if text is not None:
                tokens = {name: value.to(self.model.device) for name, value in self.processor.texts([text]).items()}
                encoded_text = self.model.encode_text(**tokens)
                embeds.append(encoded_text.embed[0])
            if picture is not None:
                embeds.append(self._encode([self.processor.images([picture])]).embed[0])
            query_D = F.normalize(torch.stack(embeds).mean(0), dim=0).cpu()
            found = self.store.search(query_D, max(k, depth) if ranks else k)
            hits = [Hit(near.entry.name, Path(near.entry.source), near.cosine, near.cosine) for near in found]
            if ranks and encoded_text is not None:
                batches = (hits[start : start + BATCH] for start in range(0, len(hits), BATCH))
                hits = [hit for batch in batches for hit in self._match(batch, encoded_text)]
        if min_probability is not None:
            hits = [hit for hit in hits if hit.probability is not None and hit.probability >= min_probability]
        return sorted(hits, key=lambda hit: (hit.missing, -hit.score))[:k]

    def _match(self, hits: Sequence[Hit], text: TowerOutput) -> list[Hit]:
        """The same hits with their match scores and probabilities.

        The image states are computed anew from the pictures. For 64 pictures of 96 px that is half of a query's half
        second on one core; kept in float16 instead they would take 20 times the room of the embeddings (170 times for
        ViT-L/14, more than the pictures themselves) and would have to be kept in step with the store.
        """
        pixels: dict[int, Tensor] = {}
        for place, hit in enumerate(hits):
            try:
                pixels[place] = self.processor.images([self._sources.load(hit.source, hit.name)])
            except CcmbError:
                continue
        ranked = [replace(hit, missing=True) for hit in hits]
        if pixels:
            index_N = torch.arange(len(pixels))
            encoded = self._encode(list(pixels.values()))
            match = rank_pairs(self.model, encoded, text, index_N, torch.zeros_like(index_N))
            scores = ranking_scores(self.model, torch.tensor([hits[place].cosine for place in pixels]), match)
            columns = (scores.tolist(), match.score.tolist(), match.probability.tolist())
            for place, score, of_match, probability in zip(pixels, *columns, strict=True):
                ranked[place] = replace(hits[place], score=score, match=of_match, probability=probability)
        return ranked

    def _encode(self, pixels: list[Tensor]) -> TowerOutput:
        return self.model.encode_image(torch.cat(pixels).to(self.model.device))


def search_index(
    index: Path,
    model: str | Path | None = None,
    text: str | None = None,
    picture: Path | None = None,
    k: int = 10,
    depth: int = 64,
    rank: bool = True,
    min_probability: float | None = None,
    fast: bool = False,
) -> list[Hit]:
    """Open an index folder and search it once; see `SearchEngine.search`.

    Args:
        model: run, model or export folder; by default the one that made the index.
        fast: compute with the model's int8 export, see `ccmb.r2d2.exporting.fast_export`.

    Raises:
        UsageError: see `SearchEngine.search`.
        CcmbError: index, model or picture is missing or damaged, the model is not the index's, or another process
            is using the index.
    """
    _check_query(text, picture)  # before the model is loaded in vain
    _check_second_stage(min_probability, rank and text is not None)
    record = IndexRecord.read(index)
    folder = _find_model(index, record, model)
    record.must_match(index, folder)
    if is_local(record.store) and not (index / record.store).exists():
        raise CcmbError(f"{index / record.store}: missing; index the pictures again")
    image = Sources().load(picture.resolve().parent, picture.resolve().name) if picture is not None else None
    network, processor = load_network(folder, fast)
    with record.open_store(index) as store:
        return SearchEngine(store, network, processor).search(text, image, k, depth, rank, min_probability)


def _check_query(text: str | None, picture: object) -> None:
    if text is None and picture is None:
        raise UsageError("nothing to search for: give a text, a picture or both")
    if text is not None:
        check_text(text, "to search for")


def _check_second_stage(min_probability: float | None, ranks: bool) -> None:
    check_min_probability(min_probability)
    if min_probability is not None and not ranks:
        raise UsageError(
            "--min-probability needs the second stage: give a text, leave out --no-rank, and use a model with cross "
            "encoders"
        )


def _find_model(index: Path, record: IndexRecord, model: str | Path | None) -> Path:
    if model is not None:
        return model_folder(model)
    if not Path(record.model).is_dir():
        raise CcmbError(f"{index}: the model that made it, {record.model}, is gone; say where it is with --model")
    return model_folder(record.model)
