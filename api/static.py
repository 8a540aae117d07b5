"""The page at `/`, FastAPI's at `/docs`, and their files: read once, from a fixed list, with a
policy that lets the browser fetch nothing from anywhere else."""

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response

_FOLDER = Path(__file__).resolve().parent / "page"
_FILES = ("style.css", "app.js", "api.js", "player.js", "worklet.js")
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_POLICY = (
    "default-src 'none'; script-src 'self'{inline}; style-src 'self'{inline}; connect-src 'self'; "
    "img-src data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


def add_pages(api: FastAPI) -> None:
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
    # FastAPI's page would load them from another host.
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
