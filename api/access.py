"""Authentication and origin checks: API keys, and the web sites whose pages may call.

Timing attacks: a key is compared by its SHA-256 digest, in constant time, with every known key.
The time taken says nothing about how much of a guess was right.

Cross-origin requests: a browser sends requests for any page. A page of another site may call only
if `CORS_ORIGIN` names its site.

DNS rebinding: a page can point a name of its own at 127.0.0.1, and then counts as the same site.
So a server on loopback without keys accepts only loopback names in the `Host` header.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from api.errors import ApiError
from config import Settings, is_loopback

_OPEN_PATHS = frozenset({"/", "/ping", "/health", "/docs", "/openapi.json"})
_OPEN_FOLDERS = ("/page/", "/docs/")
_BEARER = re.compile(r"Bearer +(\S+) *", re.I)
SUBPROTOCOL = "speech"
_KEY_SUBPROTOCOL = "key."


class Access:
    """The checks of one server, by its settings `API_KEYS`, `CORS_ORIGIN` and `HOST`."""

    def __init__(self, settings: Settings) -> None:
        self._digests = [_digest(key) for key in settings.keys]
        self._origin = settings.cors_origin
        self._only_here = is_loopback(settings.address) and not settings.keys

    def check(self, scope: Scope) -> None:
        """Raises `ApiError` 403 or 401 for an HTTP request whose caller may not make it."""
        headers, path = Headers(scope=scope), scope["path"]
        self.check_origin(headers)
        is_open = path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS)
        if not is_open and scope["method"] != "OPTIONS":
            self.check_key(headers)

    def check_origin(self, headers: Headers) -> None:
        """Raises `ApiError` 403 for a page whose site may not call, or for a foreign `Host`."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._only_here and not is_loopback(_name(host)):
            raise _forbidden(f"This server answers to local names, not to '{host[:100]}'.")
        if origin and self._origin not in ("*", origin) and urlsplit(origin).netloc != host:
            raise _forbidden("Pages of other sites may not call this server; see CORS_ORIGIN.")

    def check_key(self, headers: Headers, subprotocols: Sequence[str] = ()) -> None:
        """Raises `ApiError` 401 for a caller without a valid key.

        The key is a bearer token. A browser's WebSocket cannot send headers. Its key is the
        subprotocol `key.THE_KEY` beside `speech`.
        """
        if not self._digests:
            return
        found = _BEARER.fullmatch(headers.get("authorization", ""))
        given = found[1] if found else ""
        for name in subprotocols:
            if name.startswith(_KEY_SUBPROTOCOL):
                given = given or name.removeprefix(_KEY_SUBPROTOCOL)
        digest = _digest(given)
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            problem = "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY'."
            raise ApiError(
                401,
                "Incorrect API key provided." if given else problem,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _name(host: str) -> str:
    """The name in a `Host` header, without the port; "" if the header is malformed."""
    return urlsplit(f"//{host}").hostname or "" if re.fullmatch(r"[\w.:\[\]-]*", host) else ""


def _forbidden(message: str) -> ApiError:
    return ApiError(403, message, kind="permission_error", code="forbidden")
