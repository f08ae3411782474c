"""Errors in the shape that clients of OpenAI's API know, and nothing of the server's inside in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from impasto.config import nearest

SHOWN = 60  # characters of a user's own words in a message
TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client did wrong, or has to wait for. The client of OpenAI makes of the status: 400
    BadRequestError, 401 AuthenticationError, 404 NotFoundError, 429 RateLimitError, from 500 on
    InternalServerError."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        return AsciiResponse(
            {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}},
            self.status,
            headers=self.headers,
        )

    @property
    def type(self) -> str:
        return TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")


class AsciiResponse(JSONResponse):
    """JSON in ASCII: whatever a client sent can be said back, halves of surrogate pairs included."""

    def render(self, content: Any) -> bytes:
        import json

        return json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def busy(retry_after: int, message: str, code: str) -> ApiError:
    """429 with Retry-After."""
    return ApiError(429, message, code=code, headers={"Retry-After": str(retry_after)})


def shown(value: Any) -> str:
    """A user's own word, short and printable."""
    text = str(value)
    cut = text if len(text) <= SHOWN else text[:SHOWN] + "..."
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def install(app: FastAPI) -> None:
    """All errors of an app in this shape."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return from_validation(error).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # what JSON's reader gives up on: numbers of thousands of digits, depth
            return ApiError(400, "the body is not JSON", code="invalid_json").response()
        told = {404: "no such address", 405: "this address knows other methods"}
        message = told.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return ApiError(500, "something went wrong here; it is in the server's log").response()


def from_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, by the name of its field."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    name = shown(".".join(place)) or None
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON", code="invalid_json")
    if name is None:
        return ApiError(400, "the body should be a JSON object, of content type application/json")
    if first["type"] == "extra_forbidden":
        known = (first.get("ctx") or {}).get("known", ())
        hint = f"; {nearest(place[-1][:SHOWN], known)}" if known else ""
        return ApiError(400, f"unknown parameter '{name}'{hint}", code="unknown_parameter", param=name)
    return ApiError(400, f"'{name}': {shown_message(first['msg'])}", code="invalid_value", param=name)


def shown_message(message: str) -> str:
    """pydantic's sentence, without a capital in the middle of ours."""
    cut = message.removeprefix("Value error, ")
    return shown(cut[:1].lower() + cut[1:]) if len(cut) <= SHOWN else cut[:1].lower() + cut[1:400]
