"""Bodies of requests: JSON, or a form with pictures as files; both end as the same typed request."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar, get_origin

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, WithJsonSchema
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from ccmb.serving.faults import Fault

Body = TypeVar("Body", bound=BaseModel)
_MOST_PARTS = 300


def _from_base64(value: Any) -> bytes:
    if isinstance(value, bytes):  # a file of a form
        return value
    if not isinstance(value, str):
        raise ValueError("give the picture's bytes in base64")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None


PictureBytes = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64",
            "description": "bytes of a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF file in base64, or a data: URL of them",
        }
    ),
]


def body_of(kind: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads a request's body as `kind`."""

    async def read(request: Request) -> Body:
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media == "application/json":
            return kind.model_validate_json(await request.body())
        if media == "multipart/form-data":
            return kind.model_validate(await _form(request, kind))
        raise Fault(415, "unsupported_media_type", "send application/json or multipart/form-data")

    return read


async def _form(request: Request, kind: type[BaseModel]) -> dict[str, Any]:
    """The values of a form: files as bytes, fields of several values as lists, and fields that hold objects as JSON."""
    try:
        form = await request.form(max_files=_MOST_PARTS, max_fields=_MOST_PARTS)
    except HTTPException:
        raise Fault(400, "invalid_form", "the form cannot be read, or has too many or too large parts") from None
    values: dict[str, Any] = {}
    for name in form:
        every = [await of.read() if isinstance(of, UploadFile) else of for of in form.getlist(name)]
        field = kind.model_fields.get(name)
        origin = get_origin(field.annotation) if field is not None else None
        values[name] = every if origin is list else _object(every[-1]) if origin is dict else every[-1]
    return values


def _object(value: str | bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # which is no object, as the check of types will say


def content_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body that may come either way."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    form = {"$ref": f"#/components/schemas/{kind.__name__}Form"}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}
