"""What every request and answer has, whatever its route: an id, a caller who may call, the common
headers, a line in the log, and an envelope around whatever goes wrong.

A log line holds a request's id, method, route, status and time, and never a text or a key.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import Access
from api.errors import ApiError, as_api_error, invalid
from api.metrics import Metrics

log = logging.getLogger("vibevoice.http")

_ID = re.compile(r"[!-~]{1,128}")
_EXPOSED = (
    "X-Request-ID, Retry-After, openai-processing-ms, X-Speech-Engine, X-Speech-Voice, "
    "X-Speech-Seed, X-Speech-Queue-Ms, X-Speech-Warnings, X-Speech-Ignored"
)
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


class RequestMiddleware:
    """The outermost application. `open_paths` need no key."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Iterable[BaseRoute],
        access: Access,
        metrics: Metrics,
        cors_origin: str | None,
        open_paths: frozenset[str],
    ) -> None:
        self._app, self._routes, self._access, self._metrics = app, list(routes), access, metrics
        self._origin = cors_origin
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Visit(self, scope, send).answer(receive)
        else:
            await self._app(scope, receive, send)

    def methods(self, scope: Scope) -> list[str]:
        """The methods that a path has, OPTIONS last; none for a path that is no route."""
        found: set[str] = set()
        for route in self._routes:
            if route.matches(scope)[0] != Match.NONE:
                found |= getattr(route, "methods", None) or set()
        if "GET" in found:
            found.add("HEAD")
        return [each for each in _METHODS if each in found | {"OPTIONS"}] if found else []


class _Visit:
    """One request on its way."""

    def __init__(self, dressing: RequestMiddleware, scope: Scope, send: Send) -> None:
        self._dressing, self._scope, self._send = dressing, scope, send
        self._headers = Headers(scope=scope)
        self._began = time.monotonic()
        self._method: str = scope["method"]
        given = self._headers.get("x-request-id", "")
        self._id = given if _ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        self._status = 0
        self._ended = False

    async def answer(self, receive: Receive) -> None:
        scope = self._scope
        if self._method == "HEAD":
            scope["method"] = "GET"
        try:
            if self._method == "OPTIONS":
                await self._preflight()(scope, receive, self.send)
            else:
                self._check()
                await self._dressing._app(scope, receive, self.send)
        except Exception as raised:  # noqa: BLE001 - the last line of defence: see `as_api_error`
            # An answer that has begun cannot become an envelope any more.
            if not self._status:
                await as_api_error(raised).response()(scope, receive, self.send)
            elif not self._ended:
                scope["state"]["reset"]()
        self._note()

    def _check(self) -> None:
        dressing, path = self._dressing, self._scope["path"]
        dressing._access.check_origin(self._headers)
        if path not in dressing._open:
            dressing._access.check_key(self._headers)
        methods = dressing.methods(self._scope)
        if not methods:
            shown = f"{self._method} {path}"[:200]
            raise invalid(None, "unknown_url", f"Invalid URL ({ascii(shown)[1:-1]})", 404)
        if self._method not in methods:
            raise self._wrong_method(methods)

    def _wrong_method(self, methods: list[str]) -> ApiError:
        allow = ", ".join(methods)
        problem = f"Not allowed to {self._method} here. Use one of {allow}."
        return ApiError(405, problem, code="method_not_supported", headers={"Allow": allow})

    def _preflight(self) -> Response:
        methods = ", ".join(self._dressing.methods(self._scope) or _METHODS)
        headers = {"Allow": methods}
        if self._dressing._origin:
            headers |= {
                "Access-Control-Allow-Methods": methods,
                "Access-Control-Allow-Headers": "*, Authorization",
                "Access-Control-Max-Age": "86400",
            }
        return Response(status_code=204, headers=headers)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._dress(MutableHeaders(scope=message))
        else:
            self._ended = not message.get("more_body", False)
            if self._method == "HEAD":
                message = {**message, "body": b""}
        await self._send(message)

    def _dress(self, headers: MutableHeaders) -> None:
        took = round((time.monotonic() - self._began) * 1000)
        headers["x-request-id"] = self._id
        headers["openai-processing-ms"] = str(took)
        headers["openai-version"] = "2020-10-01"
        headers["x-content-type-options"] = "nosniff"
        if origin := self._dressing._origin:
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = _EXPOSED
            if origin != "*":
                headers["vary"] = "Origin"

    def _note(self) -> None:
        took = round((time.monotonic() - self._began) * 1000)
        route = getattr(self._scope.get("route"), "path", "other")
        self._dressing._metrics.answers.labels(route, str(self._status or 499)).inc()
        facts = {
            "request": self._id,
            "method": self._method[:20],
            "route": route,
            "status": self._status or 499,
            "ms": took,
        }
        log.info(json.dumps(facts))
