"""Text-to-image: what does a text describe? A painter makes candidates, and R2D2's match score says which fits best.

Every candidate begins with noise of its own, which the seed, the place of the text and that of the candidate decide:
the first of four is the one that would have been painted alone.

Shapes: N images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ccmb.core.choices import Solver
from ccmb.core.device import inference
from ccmb.core.errors import UsageError
from ccmb.core.progress import progress
from ccmb.inference.pipeline import Pipeline
from ccmb.r2d2.generative.generator import R2D2Generator
from ccmb.r2d2.processing import R2D2Processor

BATCH = 32
SHOWN = 20  # characters of a text in a message


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Options of sampling images.

    Attributes:
        steps: from noise to an image.
        guidance: how much the text counts, see `R2D2Generator.sample_images`.
        best_of: candidates of each text.
        solver: of flow matching; others are sampled by DDIM.
    """

    steps: int = 20
    guidance: float = 3.0
    best_of: int = 1
    seed: int = 0
    solver: Solver = "euler"


DEFAULT_SAMPLING = SamplingOptions()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One image of a text.

    Attributes:
        number: which of the text's, from 0.
        cosine: of image and text, in [-1, 1]; None without a judge.
        match_score: in [0, 1]; None likewise, and of a judge without match heads.
    """

    image: Image.Image
    number: int
    cosine: float | None = None
    match_score: float | None = None

    @property
    def score(self) -> float:
        """The score that orders candidates."""
        return (self.cosine or 0.0) if self.match_score is None else self.match_score

    @property
    def words(self) -> str:
        return f"cosine {self.score:.3f}" if self.match_score is None else f"match score {self.match_score:.3f}"


@dataclass(frozen=True, slots=True)
class GeneratedImages:
    """The images of a text, the best first; among equals the one that was sampled first."""

    text: str
    candidates: tuple[Candidate, ...]

    @property
    def first(self) -> Candidate:
        """The image that would have been sampled alone."""
        return next(candidate for candidate in self.candidates if candidate.number == 0)


def open_judge(name: str | None, source: str, model: R2D2Generator, processor: R2D2Processor) -> Pipeline:
    """Open the R2D2 that gives match scores: one of a name, or the generator's own.

    Args:
        source: what the generator is called.

    Raises:
        CcmbError: there is no such model, or it is damaged.
    """
    return Pipeline.from_model(model, processor, name=source) if name is None else Pipeline.from_pretrained(name)


def check_texts(processor: R2D2Processor, texts: Sequence[str]) -> None:
    """Refuse texts that the model cannot take.

    Raises:
        UsageError: a text is empty, or longer than the text tower reads.
    """
    for text in texts:
        if not text.strip():
            raise UsageError("a text to paint is empty; say what the image shall show")
        (count,) = processor.lengths([text])
        if count > processor.max_text_tokens:
            shown = text[:SHOWN] + ("…" if len(text) > SHOWN else "")
            raise UsageError(f"'{shown}' has {count} tokens; this model reads up to {processor.max_text_tokens}")


def paint_texts(
    model: R2D2Generator,
    processor: R2D2Processor,
    texts: Sequence[str],
    options: SamplingOptions,
    judge: Pipeline | None = None,
    batch: int = BATCH,
    place: int = 0,
) -> list[GeneratedImages]:
    """Images of some texts, in their order.

    Args:
        judge: the R2D2 whose match score orders the candidates of each text; without one they stay as painted.
        place: of the first text, where these are a part of many.

    Raises:
        UsageError: see `check_texts`.
    """
    check_texts(processor, texts)
    wanted = [(index, number) for index in range(len(texts)) for number in range(options.best_of)]
    results: list[list[Candidate]] = [[] for _ in texts]
    with progress("paint", len(wanted), "images") as advance:
        for start in range(0, len(wanted), batch):
            chunk = wanted[start : start + batch]
            asked = [texts[index] for index, _ in chunk]
            places = [(place + index, number) for index, number in chunk]
            noise = torch.stack([_noise(model.latent_shape, options.seed, *which) for which in places])
            images = _paint(model, processor, asked, noise, options)
            scores = [(None, None)] * len(chunk) if judge is None else judge_images(judge, images, asked)
            for (index, number), image, (cosine, match_score) in zip(chunk, images, scores, strict=True):
                results[index].append(Candidate(image, number, cosine, match_score))
            advance(len(chunk), "")
    return [
        GeneratedImages(text, tuple(sorted(candidates, key=lambda candidate: -candidate.score)))
        for text, candidates in zip(texts, results, strict=True)
    ]


def judge_images(
    judge: Pipeline, images: Sequence[Image.Image], texts: Sequence[str]
) -> list[tuple[float | None, float | None]]:
    """Cosine and match score of each image and its text."""
    scores = judge.score(list(zip(texts, images, strict=True)), batch_size=len(images))
    return [(pair.cosine, pair.match_score) for pair in scores]


def _paint(
    model: R2D2Generator, processor: R2D2Processor, texts: Sequence[str], noise_NCHW: Tensor, options: SamplingOptions
) -> list[Image.Image]:
    with inference(model):
        encoded = {name: value.to(model.device) for name, value in processor.texts(texts).items()}
        read = model.encode_text(**encoded)
        noise_NCHW = noise_NCHW.to(model.device)
        pixels = model.sample_images(read, noise_NCHW, options.steps, options.guidance, options.solver)
        bytes_NSS3 = ((pixels.float() + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(image) for image in bytes_NSS3]


def _noise(shape: tuple[int, int, int], seed: int, index: int, number: int) -> Tensor:
    digest = hashlib.blake2b(f"{seed}/{index}/{number}".encode(), digest_size=7).digest()
    return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big")))
