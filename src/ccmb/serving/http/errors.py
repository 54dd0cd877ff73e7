"""Errors for clients: `{"error": {"message", "code"}}`, which never contain a path of the server."""

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


class ApiError(Exception):
    """An error response. The message is one line for the client; it names no path."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def response(self) -> JSONResponse:
        return error_response(self.status, self.code, self.message, self.headers)


def error_response(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A response in the form that all errors have."""
    line = " ".join(message.split())[:_LONGEST].encode("utf-8", "replace").decode()
    return JSONResponse({"error": {"message": line, "code": code}}, status, dict(headers or {}))


def busy(retry_after: int = 1) -> ApiError:
    """The error of a server with too much to do."""
    return ApiError(503, "overloaded", "the server is busy; try again", {"Retry-After": str(retry_after)})


def invalid(message: str) -> ApiError:
    """The error of a request that is well formed but has a value that is not allowed."""
    return ApiError(422, "invalid_request", message)


def invalid_values(error: ValidationError | RequestValidationError) -> ApiError:
    """The error of invalid values, which names the first three; a body that is not JSON is a bad request."""
    problems = list(error.errors())
    if problems and problems[0]["type"] in ("json_invalid", "json_type"):
        return ApiError(400, "invalid_json", f"the body is not JSON: {_reason(problems[0])}")
    lines = [f"{'.'.join(map(str, problem['loc']))[:80]}: {_reason(problem)}" for problem in problems[:3]]
    return invalid("; ".join(lines))


def _reason(error: Mapping[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def handle_errors(app: FastAPI) -> None:
    """Register the handlers that turn every error into a response; unexpected errors are "internal" to the client."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(Overloaded)
    async def overloaded(request: Request, error: Overloaded) -> JSONResponse:
        return busy(error.retry_after).response()

    @app.exception_handler(RequestValidationError)
    async def request_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return invalid_values(error).response()

    @app.exception_handler(ValidationError)
    async def values_invalid(request: Request, error: ValidationError) -> JSONResponse:
        return invalid_values(error).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        status = error.status_code
        message = _MESSAGES.get(status, "the request cannot be read")
        return error_response(status, _CODES.get(status, "bad_request"), message, error.headers)

    @app.exception_handler(UsageError)
    async def usage_error(request: Request, error: UsageError) -> JSONResponse:
        return invalid(str(error)).response()  # usage errors of the index are about the query only

    @app.exception_handler(CcmbError)
    async def ccmb_error(request: Request, error: CcmbError) -> JSONResponse:
        where = visible_line(request.url.path[:80])
        _log.error("%s %s: %s", request.method, where, visible_line(error))  # it may name files
        return error_response(500, "internal", "the server could not do this; its log says why")

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error again, and uvicorn logs it with its traceback.
        return error_response(500, "internal", "the server could not do this; its log says why")
