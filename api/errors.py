"""What can go wrong over HTTP, in the envelope that OpenAI's clients know.

SDKs repeat 429 and 5xx by themselves, twice. So an error says what they should do: `retry` is a
number of seconds, or False for what would fail, and cost, the same again.
"""

import json
import logging
import traceback
from collections.abc import Mapping
from typing import Any

from asgi_correlation_id import correlation_id
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from request.errors import CODES, Problem, SpeechError
from request.model import OPENAI_WORDS

log = logging.getLogger("vibevoice.http")

_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


class ApiError(HTTPException):
    """An answer that is an error. `message` is written for the caller and holds no secret."""

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
        # In ASCII: what it quotes may hold half of a surrogate pair, which has no UTF-8.
        body = json.dumps(self.body, separators=(",", ":"))
        return Response(body, self.status_code, self.headers, "application/json")


def invalid(param: str | None, code: str, message: str, status: int = 400) -> ApiError:
    """The request cannot be served as it stands."""
    return ApiError(status, message, param=param, code=code)


def too_large(most: int) -> ApiError:
    return invalid(None, "request_too_large", f"The body has more than {most} bytes.", 413)


def failed(status: int, code: str | None, message: str, retry: int | bool) -> ApiError:
    """The fault is not the caller's."""
    return ApiError(status, message, kind="server_error", code=code, retry=retry)


def busy(message: str, seconds: int) -> ApiError:
    return failed(503, "queue_full", message, seconds)


async def enveloped(request: Request, error: Exception) -> Response:
    """What a route raised, or what FastAPI and Starlette raise in its place. OPTIONS is no route of
    anybody's: its answer is what the 405 would have named."""
    if isinstance(error, RequestValidationError):
        error = SpeechError(tuple(map(_problem, error.errors())))
    elif isinstance(error, HTTPException) and not isinstance(error, ApiError):
        error = _of_routing(request, error)
        if request.method == "OPTIONS" and error.code == "method_not_supported":
            return Response(headers=error.headers)
    return as_api_error(error).response()


def _problem(item: Any) -> Problem:
    """A field of a form that is not there, or is a file where it should be a text."""
    code = "missing_required_parameter" if item["type"] == "missing" else "invalid_type"
    return Problem(str(item["loc"][-1]), code, item["msg"])


def _of_routing(request: Request, error: HTTPException) -> ApiError:
    asked = f"{request.method} {request.scope['path']}"[:200]
    if error.status_code == 404:
        return invalid(None, "unknown_url", f"Invalid URL ({ascii(asked)[1:-1]})", 404)
    if error.status_code == 405:
        allow = _methods(request)
        problem = f"Not allowed to {request.method[:20]} here. Use one of {allow}."
        return ApiError(405, problem, code="method_not_supported", headers={"Allow": allow})
    return invalid(None, "invalid_value", error.detail, error.status_code)


def _methods(request: Request) -> str:
    """Those of a path: FastAPI's 405 names those of one of its routes, and never HEAD."""
    found = {"OPTIONS"}
    for route in request.app.routes:
        if route.matches(request.scope)[0] != Match.NONE:
            found |= route.methods or set()
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(each for each in _METHODS if each in found)


def as_api_error(error: BaseException) -> ApiError:
    """The answer for whatever was raised. Logs what nobody foresaw, without its message, which may
    quote the text."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SpeechError):
        return _of_speech(error)
    if isinstance(error, TimeoutError):
        return failed(504, "timeout", "The answer took longer than it may.", retry=False)
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("internal error: %s in %s\n%s", type(error).__name__, correlation_id.get(), place)
    problem = "The server failed; its log has the place."
    return failed(500, "internal_error", problem, retry=False)


def _of_speech(error: SpeechError) -> ApiError:
    """The first problem's code and field, and the sentence of all, in OpenAI's names."""
    first, sentence = error.problems[0], error.told(OPENAI_WORDS)
    status = CODES[first.code].status
    if status >= 500:
        return failed(status, first.code, sentence, first.retry or False)
    field = first.named(OPENAI_WORDS)
    return invalid(field and field.partition(".")[0], first.code, sentence, status)


def event_of(error: BaseException) -> dict[str, Any]:
    """The same as a message in a stream or on a socket."""
    told = as_api_error(error).body["error"]
    return {"type": "error", "message": told["message"], "error": told}
