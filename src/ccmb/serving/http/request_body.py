"""Bodies of requests: JSON, or a form with images as files. Both become the same typed request."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_origin
from urllib.parse import unquote_to_bytes

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, WithJsonSchema

from ccmb.serving.http.errors import ApiError
from ccmb.serving.http.forms import check_charset, read_form

Body = TypeVar("Body", bound=BaseModel)
_MAX_PARTS = 300
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


def _from_base64(value: Any) -> bytes:
    if isinstance(value, bytes):  # a file of a form
        return value
    if not isinstance(value, str):
        raise ValueError("give the image's bytes in base64")
    text = value.strip()
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma:
            raise ValueError("a data: URL needs a comma before its data")
        if head.rpartition(";")[2].strip().lower() != "base64":
            return unquote_to_bytes(text)
    return _any_base64(unquote_to_bytes(text) if "%" in text else text.encode())


def _any_base64(text: bytes) -> bytes:
    """Decode base64 in either alphabet (RFC 4648, 4 and 5), with or without padding and line breaks."""
    plain = b"".join(text.split()).translate(_STANDARD_ALPHABET).rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None


ImageBytes = Annotated[
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
        content_type = request.headers.get("content-type", "")
        media = content_type.partition(";")[0].strip().lower()
        if media == "application/json":
            return kind.model_validate_json(_json_text(content_type, await request.body()))
        if media == "multipart/form-data":
            return kind.model_validate(_form(read_form(content_type, await request.body(), _MAX_PARTS), kind))
        raise ApiError(415, "unsupported_media_type", "send application/json or multipart/form-data")

    return read


def _json_text(content_type: str, body: bytes) -> str:
    """The text of a JSON body.

    Raises:
        ApiError: the text is not UTF-8, or is declared not to be.
    """
    if charset := re.search(r"charset\s*=\s*([^;\s]+)", content_type, re.IGNORECASE):
        check_charset(charset[1])
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ApiError(400, "not_utf8", "the body is not UTF-8; JSON is sent as UTF-8") from None


def _form(parts: Mapping[str, Sequence[str | bytes]], kind: type[BaseModel]) -> dict[str, Any]:
    """The values of a form: files are bytes, fields of several values are lists, and objects are read from JSON."""
    values: dict[str, Any] = {}
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    for name, parts_of_field in parts.items():
        field = fields.get(name)
        origin = get_origin(field.annotation) if field is not None else None
        values[name] = (
            list(parts_of_field)
            if origin is list
            else _object(parts_of_field[-1])
            if origin is dict
            else parts_of_field[-1]
        )
    return values


def _object(value: str | bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # not an object; the check of types will refuse it


def content_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body that may be JSON or a form."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    form = {"$ref": f"#/components/schemas/{kind.__name__}Form"}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}
