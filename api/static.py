"""Static files: the page at `/`, Swagger UI at `/docs`, and what they load.

Files are read once, from a fixed list. A Content-Security-Policy keeps the browser from loading
anything from another host.
"""

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response

_FOLDER = Path(__file__).resolve().parent / "page"
_FILES = ("style.css", "app.js", "api.js", "player.js", "transcript.js", "worklet.js")
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_POLICY = (
    "default-src 'none'; script-src 'self'{inline}; style-src 'self'{inline}; connect-src 'self'; "
    "img-src data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


def add_pages(api: FastAPI) -> None:
    """Adds a GET route for each file."""
    html = (_FOLDER / "index.html").read_bytes()
    _add(api, "/", html, "text/html; charset=utf-8")
    for name in _FILES:
        _add(api, f"/page/{name}", (_FOLDER / name).read_bytes(), _TYPES[Path(name).suffix])
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=api.title,
        swagger_css_url="docs/swagger-ui.css",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_favicon_url="data:,",
    )
    _add(api, "/docs", bytes(page.body), "text/html; charset=utf-8", inline=" 'unsafe-inline'")
    # By default FastAPI's page loads these two from a CDN.
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        data = (files("fastapi_offline") / "static" / name).read_bytes()
        _add(api, f"/docs/{name}", data, _TYPES[Path(name).suffix])


def _add(api: FastAPI, path: str, data: bytes, kind: str, inline: str = "") -> None:
    headers = {
        "Content-Security-Policy": _POLICY.format(inline=inline),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
    }

    @api.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(data, media_type=kind, headers=headers)
