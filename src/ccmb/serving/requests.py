"""The requests of clients: the types, limits and descriptions of their values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from ccmb.core.text.cleaning import clean_query
from ccmb.serving.http.request_body import ImageBytes

LONGEST_TEXT = 2000
MAX_TEXTS, MAX_IMAGES, MAX_PAIRS, MAX_CLASSES = 256, 64, 256, 1000


def _cleaned(text: str) -> str:
    """A text, cleaned as the texts of a corpus are.

    Raises:
        ValueError: no visible character is left.
    """
    if not (cleaned := clean_query(text)):
        raise ValueError("the text is empty but for marks that cannot be seen")
    return cleaned


Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT, pattern=r"\S"), AfterValidator(_cleaned)]
Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,64}$")]
Value = Annotated[str, StringConstraints(max_length=1000)] | bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | float


class Request(BaseModel):
    """The base of all requests: unknown names and infinite numbers are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Filter(Request):
    """One condition: `field comparison value`."""

    field: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    comparison: Literal["==", "!=", "<", "<=", ">", ">=", "in", "under"]
    value: Value | Annotated[list[Value], Field(min_length=1, max_length=100)]


class SearchRequest(Request):
    """Look for images by a text, an image or both, or by what is like an image of the index."""

    text: Text | None = Field(None, description="Chinese text")
    image: ImageBytes | None = Field(None, alias="picture")
    like: Key | None = Field(None, description='key of an image of the index ("more like this")')
    k: int = Field(10, ge=1, le=100, description="hits of a page")
    offset: int = Field(0, ge=0, le=10_000, description="hits of the pages before")
    depth: int = Field(64, ge=1, le=512, description="candidates of the first stage that the second one ranks")
    rank: bool = Field(True, description="rank with the second stage")
    min_probability: float | None = Field(None, ge=0, le=1, description="leave out less likely matches")
    where: list[Filter | Annotated[str, StringConstraints(min_length=1, max_length=1000)]] = Field(
        default_factory=list, max_length=20, description='filters: objects, or words such as "width>=800"'
    )
    budget: float | None = Field(None, gt=0, le=60, description="seconds for the second stage")
    collapse: bool = Field(False, description="show near duplicates as one hit")

    @model_validator(mode="after")
    def _asks_for_something(self) -> SearchRequest:
        if self.text is None and self.image is None and self.like is None:
            raise ValueError("give a text, an image, or `like`")
        if self.like is not None and self.image is not None:
            raise ValueError("give an image or `like`, not both")
        return self

    @model_validator(mode="after")
    def _second_stage_is_there(self) -> SearchRequest:
        if self.rank and self.text is not None:
            return self
        why = "ranks by a text alone" if self.rank else "`rank` leaves out"
        for name in ("depth", "budget"):
            if name in self.model_fields_set:
                raise ValueError(f"`{name}` is of the second stage, which {why}; leave it out")
        return self


class EmbedRequest(Request):
    """Embed texts, images or both."""

    texts: list[Text] = Field(default_factory=list, max_length=MAX_TEXTS)
    images: list[ImageBytes] = Field(alias="pictures", default_factory=list, max_length=MAX_IMAGES)

    @model_validator(mode="after")
    def _has_something(self) -> EmbedRequest:
        if not self.texts and not self.images:
            raise ValueError("give texts or images")
        return self


class EmbeddingInput(Request):
    """One input of /v1/embeddings: a text or an image."""

    text: Text | None = None
    image: ImageBytes | None = None

    @model_validator(mode="after")
    def _is_one(self) -> EmbeddingInput:
        if (self.text is None) == (self.image is None):
            raise ValueError("give a text or an image")
        return self


class EmbeddingsRequest(Request):
    """The request of OpenAI's embeddings, whose inputs may be images too: {"image": BASE64}."""

    input: Text | EmbeddingInput | Annotated[list[Text | EmbeddingInput], Field(min_length=1, max_length=MAX_TEXTS)]
    model: Annotated[str, StringConstraints(max_length=200)] | None = Field(None, description="is not looked at")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=65_536, description="must be the model's, if given")
    user: Annotated[str, StringConstraints(max_length=200)] | None = Field(None, description="is not looked at")


class MatchRequest(Request):
    """How well does a text describe each of some images?"""

    text: Text
    images: list[ImageBytes] = Field(alias="pictures", min_length=1, max_length=MAX_IMAGES)
    min_probability: float | None = Field(None, ge=0, le=1, description="least probability that counts as a match")


class RerankRequest(Request):
    """Order images by a text, or texts by an image, with the second stage."""

    text: Text | None = Field(None, description="orders `pictures` and `keys`")
    images: list[ImageBytes] = Field(alias="pictures", default_factory=list, max_length=MAX_IMAGES)
    keys: list[Key] = Field(default_factory=list, max_length=MAX_IMAGES, description="images of the index")
    image: ImageBytes | None = Field(None, alias="picture", description="orders `texts`")
    texts: list[Text] = Field(default_factory=list, max_length=MAX_PAIRS)
    top: int | None = Field(None, ge=1, le=MAX_PAIRS, description="how many of the best; by default all")

    @model_validator(mode="after")
    def _is_one_question(self) -> RerankRequest:
        by_text = self.text is not None and (self.images or self.keys) and not self.texts and self.image is None
        by_image = self.image is not None and self.texts and self.text is None and not (self.images or self.keys)
        if not by_text and not by_image:
            raise ValueError("give `text` with `pictures` or `keys`, or `picture` with `texts`")
        return self


class ClassifyRequest(Request):
    """Which of some classes does each image belong to?"""

    images: list[ImageBytes] = Field(alias="pictures", min_length=1, max_length=MAX_IMAGES)
    classes: (
        Literal["cifar10", "cifar100", "imagenet"]
        | Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]],
            Field(min_length=2, max_length=MAX_CLASSES),
        ]
    ) = Field(description="a list's name, or names of classes, synonyms between slashes: 猫/猫咪")
    templates: Literal["all", "plain"] = Field("plain", description="prompts of a class: one, or all of some forty")
    top: int = Field(5, ge=1, le=100)
    depth: int | None = Field(None, ge=1, le=20, description="so many of the best classes are ranked anew")

    @field_validator("classes", mode="before")
    @classmethod
    def _one_of_a_form(cls, value: Any) -> Any:
        """A form's single value is a list's name, or names with commas between."""
        if isinstance(value, str) and value not in ("cifar10", "cifar100", "imagenet"):
            return [name.strip() for name in value.replace("，", ",").split(",") if name.strip()]
        return value


class CaptionRequest(Request):
    """What do images show?"""

    images: list[ImageBytes] = Field(alias="pictures", min_length=1, max_length=8)


class ImageRequest(Request):
    """An image to add to the index."""

    image: ImageBytes = Field(alias="picture")
    name: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]*$")]
    fields: dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], Value] = Field(
        default_factory=dict, max_length=32, description="of one's own, for filters"
    )
