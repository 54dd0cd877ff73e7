"""What a client is told when something is wrong: `{"error": {"message", "code"}}`, and never a path of the server."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.terminal import visible_line
from ccmb.serving.batching import Overloaded

_log = logging.getLogger("ccmb.serving")
_CODES = {404: "not_found", 405: "method_not_allowed", 400: "bad_request"}
_MESSAGES = {404: "nothing is served at this address", 405: "this address does not take this method"}
_LONGEST = 300


class Fault(Exception):
    """An answer that is an error. The message is one line for the client; it names no path."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def response(self) -> JSONResponse:
        return error_response(self.status, self.code, self.message, self.headers)


def error_response(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The one form of all errors."""
    line = " ".join(message.split())[:_LONGEST].encode("utf-8", "replace").decode()
    return JSONResponse({"error": {"message": line, "code": code}}, status, dict(headers or {}))


def busy(retry_after: int = 1) -> Fault:
    """The server has more to do than it will take on."""
    return Fault(503, "overloaded", "the server is busy; try again", {"Retry-After": str(retry_after)})


def invalid(message: str) -> Fault:
    """The request is well formed, but a value of it cannot be."""
    return Fault(422, "invalid_request", message)


def say_invalid(error: ValidationError | RequestValidationError) -> Fault:
    """What is wrong with the first values that are; a body that is no JSON is a bad request."""
    found = list(error.errors())
    if found and found[0]["type"] in ("json_invalid", "json_type"):
        return Fault(400, "invalid_json", f"the body is not JSON: {_reason(found[0])}")
    lines = [f"{'.'.join(map(str, of['loc']))[:80]}: {_reason(of)}" for of in found[:3]]
    return invalid("; ".join(lines))


def _reason(error: Mapping[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def handle_errors(app: FastAPI) -> None:
    """Give every error its form. What nobody foresaw is logged here and is "internal" to the client."""

    @app.exception_handler(Fault)
    async def fault(request: Request, error: Fault) -> JSONResponse:
        return error.response()

    @app.exception_handler(Overloaded)
    async def overloaded(request: Request, error: Overloaded) -> JSONResponse:
        return busy(error.retry_after).response()

    @app.exception_handler(RequestValidationError)
    async def of_fastapi(request: Request, error: RequestValidationError) -> JSONResponse:
        return say_invalid(error).response()

    @app.exception_handler(ValidationError)
    async def of_pydantic(request: Request, error: ValidationError) -> JSONResponse:
        return say_invalid(error).response()

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> JSONResponse:
        status = error.status_code
        message = _MESSAGES.get(status, "the request cannot be read")
        return error_response(status, _CODES.get(status, "bad_request"), message, error.headers)

    @app.exception_handler(UsageError)
    async def of_usage(request: Request, error: UsageError) -> JSONResponse:
        return invalid(str(error)).response()  # the index speaks of the query alone

    @app.exception_handler(CcmbError)
    async def of_ours(request: Request, error: CcmbError) -> JSONResponse:
        where = visible_line(request.url.path[:80])
        _log.error("%s %s: %s", request.method, where, visible_line(error))  # it may name files
        return error_response(500, "internal", "the server could not do this; its log says why")

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises it on, and uvicorn logs it with its traceback.
        return error_response(500, "internal", "the server could not do this; its log says why")
