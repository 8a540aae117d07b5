"""Errors over HTTP, in the JSON envelope that OpenAI's clients know.

OpenAI's SDKs repeat a 429 or 5xx twice on their own. So an error says whether they should. `retry`
is the seconds to wait. It is False if a repeat would fail, and cost, the same again; else True.
"""

import json
import logging
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from asgi_correlation_id import correlation_id
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from request.errors import CODES, Problem, SpeechError
from request.model import OPENAI_WORDS

log = logging.getLogger("vibevoice.http")

_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


class ApiError(HTTPException):
    """An error answer. `message` is written for the caller and holds no secret.

    `kind` is the envelope's `type`, `param` the field at fault. `retry` becomes `Retry-After` in
    seconds, or `x-should-retry: false`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry: int | bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        told = dict(headers or {})
        if retry is False:
            told["x-should-retry"] = "false"
        elif retry is not True:
            told["Retry-After"] = str(max(1, retry))
        super().__init__(status, message, told)
        self.code = code
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> Response:
        """The error as an HTTP response with a JSON body."""
        # ASCII escapes: a quoted value may hold a lone surrogate, which UTF-8 cannot encode.
        body = json.dumps(self.body, separators=(",", ":"))
        return Response(body, self.status_code, self.headers, "application/json")


def invalid(param: str | None, code: str, message: str, status: int = 400) -> ApiError:
    """An error of the caller's: the same request would fail again. `param` is the field."""
    return ApiError(status, message, param=param, code=code)


def too_large(most: int) -> ApiError:
    """A 413 for a body of more than `most` bytes."""
    return invalid(None, "request_too_large", f"The body has more than {most} bytes.", 413)


def failed(status: int, code: str | None, message: str, retry: int | bool) -> ApiError:
    """An error of the server's; `retry` as in `ApiError`."""
    return ApiError(status, message, kind="server_error", code=code, retry=retry)


def busy(message: str, seconds: int, headers: Mapping[str, str] | None = None) -> ApiError:
    """A 503 with `Retry-After: seconds`."""
    return ApiError(
        503, message, kind="server_error", code="queue_full", retry=seconds, headers=headers
    )


def unknown_url(routes: Iterable[BaseRoute], scope: Scope, method: str) -> ApiError:
    """A 404 for a path that no route has; it says so where `/v1` is missing."""
    asked = f"{method} {scope['path']}"[:200]
    told = f"Invalid URL ({ascii(asked)[1:-1]})"
    if _routes(routes, {**scope, "path": f"/v1{scope['path']}"}):
        told += ". The base address has to end in /v1"
    return invalid(None, "unknown_url", told, 404)


async def enveloped(request: Request, error: Exception) -> Response:
    """The exception handler: an error of a route, of FastAPI or of Starlette as a response.

    No route takes OPTIONS. Its 405 becomes a 200 with the same `Allow` header.
    """
    if isinstance(error, RequestValidationError):
        error = SpeechError(tuple(map(_problem, error.errors())))
    elif isinstance(error, HTTPException) and not isinstance(error, ApiError):
        error = _of_routing(request, error)
        if request.method == "OPTIONS" and error.code == "method_not_supported":
            return Response(headers=error.headers)
    return as_api_error(error).response()


def _problem(item: Any) -> Problem:
    """One of FastAPI's form errors: a field is missing, or is a file instead of a text."""
    code = "missing_required_parameter" if item["type"] == "missing" else "invalid_type"
    return Problem(str(item["loc"][-1]), code, item["msg"])


def _of_routing(request: Request, error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return unknown_url(request.app.routes, request.scope, request.method)
    if error.status_code == 405:
        allow = _methods(request)
        problem = f"Not allowed to {request.method[:20]} here. Use one of {allow}."
        return ApiError(405, problem, code="method_not_supported", headers={"Allow": allow})
    return invalid(None, "invalid_value", error.detail, error.status_code)


def _methods(request: Request) -> str:
    """The methods of a path, over all its routes, for `Allow`.

    FastAPI's own 405 names the methods of one route, and never HEAD.
    """
    found = {"OPTIONS"}
    for route in _routes(request.app.routes, request.scope):
        found |= getattr(route, "methods", None) or set()
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(each for each in _METHODS if each in found)


def _routes(routes: Iterable[BaseRoute], scope: Scope) -> list[BaseRoute]:
    """Those of a path, whatever their methods."""
    return [each for each in routes if each.matches(scope)[0] != Match.NONE]


def as_api_error(error: BaseException, words: Mapping[str, str] = OPENAI_WORDS) -> ApiError:
    """The error answer for any exception. `words` maps our names of fields to the caller's.

    An unforeseen exception becomes a 500 and is logged, without its message: that may quote the
    caller's text.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SpeechError):
        return _of_speech(error, words)
    if isinstance(error, TimeoutError):
        return failed(504, "timeout", "The answer took longer than it may.", retry=False)
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("internal error: %s in %s\n%s", type(error).__name__, correlation_id.get(), place)
    problem = "The server failed; its log has the place."
    return failed(500, "internal_error", problem, retry=False)


def _of_speech(error: SpeechError, words: Mapping[str, str]) -> ApiError:
    """An envelope with the first problem's code and field, and a sentence of all problems."""
    first, sentence = error.problems[0], error.told(words)
    status = CODES[first.code].status
    if status >= 500:
        return failed(status, first.code, sentence, first.retry or False)
    field = first.named(words)
    return invalid(field and field.partition(".")[0], first.code, sentence, status)


def event_of(error: BaseException) -> dict[str, Any]:
    """The error as a message for a stream of events or a WebSocket."""
    told = as_api_error(error).body["error"]
    return {"type": "error", "message": told["message"], "error": told}
