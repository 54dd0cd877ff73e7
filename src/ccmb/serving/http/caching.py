"""Responses that a browser or a proxy may keep and revalidate with their ETag."""

from __future__ import annotations

import hashlib
import re

from fastapi import Request, Response

_TAG = re.compile(r'(?:W/)?("[^"]*")')


def cached(request: Request, data: bytes, media_type: str, cache_control: str) -> Response:
    """The data with its ETag; or a 304 response if the client already has the data."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": cache_control}
    if _has(request.headers.getlist("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


def _has(values: list[str], tag: str) -> bool:
    """Whether If-None-Match names the tag: a list, weak tags, or `*` (RFC 9110, 13.1.2)."""
    return any(value.strip() == "*" or tag in _TAG.findall(value) for value in values)
