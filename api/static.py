"""The page at `/` and its files: read once, from a fixed list, with a policy that lets the browser
fetch nothing from anywhere else. And FastAPI's page at `/docs`, under such a policy too."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

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
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
}
_INLINE = "'self' 'unsafe-inline'"
_DOCS_POLICY = _POLICY.replace("script-src 'self'", f"script-src {_INLINE}").replace(
    "style-src 'self'", f"style-src {_INLINE}"
)


def add_page(api: FastAPI) -> None:
    for name, kind in _TYPES.items():
        path = "/" if name == "index.html" else f"/page/{name}"
        api.add_api_route(path, _file((_FOLDER / name).read_bytes(), kind), include_in_schema=False)


def _file(data: bytes, kind: str):  # type: ignore[no-untyped-def] # FastAPI reads the signature
    async def page() -> Response:
        return Response(data, media_type=kind, headers=_HEADERS)

    return page


def add_docs(api: FastAPI) -> None:
    """FastAPI's page, its script and style from a package instead of from another host."""
    api.mount("/docs/files", StaticFiles(packages=[("fastapi_offline", "static")]))
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=api.title,
        swagger_js_url="docs/files/swagger-ui-bundle.js",
        swagger_css_url="docs/files/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    page.headers.update(_HEADERS | {"Content-Security-Policy": _DOCS_POLICY})

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return page
