"""Middleware for all routes: access check, bounded body, common headers, error envelope, log line.

A log line holds a request's id, method, route, status and time in ms. It never holds a text or key.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import NamedTuple

from asgi_correlation_id import correlation_id
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import Access
from api.admission import check_connection
from api.errors import as_api_error, failed, invalid, too_large
from api.metrics import Metrics

log = logging.getLogger("vibevoice.http")


class BodyLimit(NamedTuple):
    """The largest body in bytes, and the seconds within which it has to arrive."""

    most: int
    seconds: float


class BoundedBody:
    """An ASGI `receive` with a `BodyLimit`.

    Raises `ApiError`: 413 for too many bytes, 408 for a late body, 400 for one that breaks off.
    """

    def __init__(self, scope: Scope, receive: Receive, limit: BodyLimit) -> None:
        self._receive, self._most, self._left = receive, limit.most, limit.most
        self._until: float | None = asyncio.get_running_loop().time() + limit.seconds
        if int(Headers(scope=scope).get("content-length", 0)) > limit.most:
            raise too_large(limit.most)

    async def __call__(self) -> Message:
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise failed(408, "timeout", "The body did not arrive in time.", retry=True) from None
        if message["type"] == "http.disconnect" and self._until:
            raise invalid(None, "incomplete", "The body broke off.")
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise too_large(self._most)
        if not message.get("more_body", False):
            self._until = None
        return message


class RequestMiddleware:
    """The middleware around all routes. The one that sets the request id is outside of it."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        metrics: Metrics,
        limits: Mapping[str, BodyLimit],
        limit: BodyLimit,
    ) -> None:
        """`limits` maps paths to their body limits; `limit` is for all other paths."""
        self._app, self._access, self._metrics = app, access, metrics
        self._limits, self._limit = limits, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = {**scope, "path": self._access.path_of(scope["path"])}
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, ended = time.monotonic(), 0, False
        # Routes see GET. uvicorn omits the body, because its own scope still says HEAD.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def send_noted(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["openai-processing-ms"] = str(_ms_since(began))
                headers["openai-version"] = "2020-10-01"
                headers["x-content-type-options"] = "nosniff"
            else:
                ended = not message.get("more_body", False)
            await send(message)

        try:
            check_connection(asked)
            self._access.check(asked)
            body = BoundedBody(scope, receive, self._limits.get(scope["path"], self._limit))
            await self._app(asked, body, send_noted)
        except Exception as raised:  # noqa: BLE001 - the last line of defence: see `as_api_error`
            # Once a status is sent, an envelope is not possible: the connection is reset.
            if not status:
                await as_api_error(raised).response()(asked, receive, send_noted)
            elif not ended:
                scope["state"]["reset"]()
        self._note(asked, scope["method"], status or 499, began)

    def _note(self, scope: Scope, method: str, status: int, began: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.answers.labels(route, str(status)).inc()
        facts = {
            "request": correlation_id.get(),
            "method": method[:20],
            "route": route,
            "status": status,
            "ms": _ms_since(began),
        }
        log.info(json.dumps(facts))


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
