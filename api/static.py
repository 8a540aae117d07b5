"""The page at `/` and its files: read once, from a fixed list, with a policy that lets the browser
fetch nothing from anywhere else."""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response

HTML = "text/html; charset=utf-8"
_FOLDER = Path(__file__).resolve().parent / "page"
_TYPES = {
    "index.html": HTML,
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "player.js": "text/javascript; charset=utf-8",
    "worklet.js": "text/javascript; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
}
PATHS = frozenset({"/", *(f"/page/{name}" for name in _TYPES)})


def add_page(api: FastAPI) -> None:
    for name, kind in _TYPES.items():
        path = "/" if name == "index.html" else f"/page/{name}"
        api.add_api_route(path, _file((_FOLDER / name).read_bytes(), kind), include_in_schema=False)


def _file(data: bytes, kind: str):  # type: ignore[no-untyped-def] # FastAPI reads the signature
    async def page() -> Response:
        return Response(data, media_type=kind, headers=HEADERS)

    return page
