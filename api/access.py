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
_LISTS = frozenset(
    base + name for base in ("", "/v1") for name in ("/models", "/audio/models", "/audio/voices")
)
_KEY = re.compile(r"(?:Bearer|Token) +(\S+) *", re.I)
_KEY_HEADERS = ("api-key", "xi-api-key")
"""Where clients of Azure's OpenAI and of other speech services send their key."""
SUBPROTOCOL = "speech"
_KEY_SUBPROTOCOL = "key."


class Access:
    """The checks of one server, by API_KEYS, PUBLIC_LISTS, CORS_ORIGIN and HOST."""

    def __init__(self, settings: Settings) -> None:
        self._digests = [_digest(key) for key in settings.keys]
        self._public_lists = settings.public_lists
        self._origin = settings.cors_origin
        self._only_here = is_loopback(settings.address) and not settings.keys

    def check(self, scope: Scope) -> None:
        """Raises `ApiError` 403 or 401 for an HTTP request whose caller may not make it."""
        headers, path = Headers(scope=scope), scope["path"]
        self.check_origin(headers)
        is_open = path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS)
        is_open |= self._public_lists and path in _LISTS and scope["method"] == "GET"
        if not is_open and scope["method"] != "OPTIONS":
            self.check_key(headers)

    def path_of(self, path: str) -> str:
        """The route's path for a path as it was sent.

        Addresses that were joined from parts have doubled slashes, or one at the end. Public lists
        also answer without `/v1`.
        """
        path = re.sub("/{2,}", "/", path).rstrip("/") or "/"
        is_bare = self._public_lists and path in _LISTS and not path.startswith("/v1/")
        return f"/v1{path}" if is_bare else path

    def check_origin(self, headers: Headers) -> None:
        """Raises `ApiError` 403 for a page whose site may not call, or for a foreign `Host`."""
        host, origin = headers.get("host"), headers.get("origin")
        # HTTP/1.0 has no `Host`, and no browser leaves it out.
        if self._only_here and host is not None and not is_loopback(_name(host)):
            raise _forbidden(f"This server answers to local names, not to '{host[:100]}'.")
        if origin and self._origin not in ("*", origin) and urlsplit(origin).netloc != host:
            raise _forbidden("Pages of other sites may not call this server; see CORS_ORIGIN.")

    def check_key(self, headers: Headers, subprotocols: Sequence[str] = ()) -> None:
        """Raises `ApiError` 401 for a caller without a valid key.

        The key is a bearer token, or in one of the headers `api-key` and `xi-api-key`. A browser's
        WebSocket cannot send headers. Its key is the subprotocol `key.THE_KEY` beside `speech`.
        """
        given = _key_in(headers, subprotocols)
        if not self._knows(given):
            problem = "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY'."
            raise ApiError(
                401,
                "Incorrect API key provided." if given else problem,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def is_known(self, headers: Headers) -> bool:
        """Whether a request has a valid key, or none is needed."""
        return self._knows(_key_in(headers))

    def _knows(self, key: str) -> bool:
        digest = _digest(key)
        matches = sum(hmac.compare_digest(digest, known) for known in self._digests)
        return matches > 0 or not self._digests


def _key_in(headers: Headers, subprotocols: Sequence[str] = ()) -> str:
    """The key of a request; "" if there is none."""
    found = _KEY.fullmatch(headers.get("authorization", ""))
    keys = [found[1] if found else "", *(headers.get(name, "").strip() for name in _KEY_HEADERS)]
    keys += [
        name.removeprefix(_KEY_SUBPROTOCOL)
        for name in subprotocols
        if name.startswith(_KEY_SUBPROTOCOL)
    ]
    return next(filter(None, keys), "")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _name(host: str) -> str:
    """The name in a `Host` header, without the port; "" if the header is malformed."""
    return urlsplit(f"//{host}").hostname or "" if re.fullmatch(r"[\w.:\[\]-]*", host) else ""


def _forbidden(message: str) -> ApiError:
    return ApiError(403, message, kind="permission_error", code="forbidden")
