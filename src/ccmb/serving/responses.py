"""The responses of the server. None of them contains a path of the server."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ccmb.search.query import FieldValue


class ErrorBody(BaseModel):
    """What was wrong."""

    message: str
    code: str


class ErrorAnswer(BaseModel):
    """The one form of all errors."""

    error: ErrorBody


class HitAnswer(BaseModel):
    """An image that was found."""

    key: str
    name: str = Field(description="within its folder or tar")
    cosine: float = Field(description="of its embedding with the query's, in [-1, 1]")
    score: float = Field(description="what hits are ordered by")
    match: float | None = Field(None, description="match score in [0, 1]; null where the second stage did not rank it")
    probability: float | None = Field(
        None, description="calibrated probability of a match; null likewise, and where the model is not calibrated"
    )
    missing: bool = Field(False, description="the image is gone or unreadable now")
    fields: dict[str, FieldValue] = Field(default_factory=dict)
    copies: list[str] = Field(default_factory=list, description="keys of near duplicates, where they are collapsed")
    place: int = Field(description="among the candidates of the first stage, from 1")


class SearchAnswer(BaseModel):
    """Hits, best first."""

    hits: list[HitAnswer]
    no_match: bool
    candidates: int = Field(description="that the first stage found")
    ranked: int = Field(description="of them, by the second stage")
    partial: bool = Field(description="the budget ended before all were ranked")
    more: bool = Field(description="there is a next page")
    unknown: bool = Field(False, description="the model knows few words of the text or none: the order says little")
    cut: bool = Field(False, description="this is the end of what the store gives for one query; there may be more")
    seconds: dict[str, float] = Field(description="of each part")


class EmbedAnswer(BaseModel):
    """Embeddings of length 1, in the order of what was given."""

    model_config = ConfigDict(populate_by_name=True)

    model: str
    dim: int
    texts: list[list[float]]
    images: list[list[float]] = Field(alias="pictures")


class EmbeddingAnswer(BaseModel):
    """One embedding in OpenAI's form."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="floats, or little-endian float32 in base64")


class UsageAnswer(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """Embeddings in OpenAI's form."""

    object: Literal["list"] = "list"
    data: list[EmbeddingAnswer]
    model: str
    usage: UsageAnswer


class PairAnswer(BaseModel):
    """What both stages say of an image and a text."""

    index: int = Field(description="of the image or text, as it was given")
    cosine: float
    match: float | None = Field(None, description="match score in [0, 1]; null without cross encoders")
    probability: float | None = Field(
        None, description="calibrated probability of a match; null likewise, and where the model is not calibrated"
    )
    score: float = Field(description="by the model's ranking rule; it orders")
    is_match: bool | None = Field(None, description="the probability is the least one that counts, or more")


class MatchAnswer(BaseModel):
    """One answer for each image, in their order."""

    results: list[PairAnswer]
    unknown: bool = Field(False, description="the model knows few words of the text or none: the scores say little")


class RerankAnswer(BaseModel):
    """Best first; `index` counts images, then keys, as they were given."""

    results: list[PairAnswer]


class ClassAnswer(BaseModel):
    """A class that an image may belong to."""

    name: str
    index: int
    cosine: float
    score: float | None = Field(None, description="of the second stage, if it was asked for")


class ClassifyAnswer(BaseModel):
    """The best classes of each image, best first."""

    results: list[list[ClassAnswer]]


class CandidateAnswer(BaseModel):
    """One caption."""

    text: str
    log_probability: float
    match: float | None = None


class CaptionAnswer(BaseModel):
    """The captions of each image, best first."""

    results: list[list[CandidateAnswer]]


class ImageAnswer(BaseModel):
    """An image of the index."""

    key: str


class DeletedAnswer(BaseModel):
    """How many images are gone from the index."""

    deleted: int


class HealthAnswer(BaseModel):
    """Whether the server works."""

    status: Literal["ok"] = "ok"
    version: str


class AboutAnswer(BaseModel):
    """What this server can do, and its limits."""

    model_config = ConfigDict(populate_by_name=True)

    version: str
    model: str
    ranker: str | None = Field(
        None, description="another model that is the second stage; null if it is the model's own"
    )
    dim: int
    images: int | None = Field(None, alias="pictures", description="of the index; null without one")
    can_rank: bool
    calibrated: bool = Field(description="whether the model gives probabilities of a match")
    can_caption: bool
    can_write: bool = Field(description="whoever asks may add and delete images")
    fields: dict[str, str] = Field(description="fields that filters know, and their types")
    max_bytes: int
    max_pixels: int
