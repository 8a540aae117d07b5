"""`/docs`: the OpenAPI description as a plain page. It needs no script, so it works behind a
firewall and under the same policy as the page at `/`."""

import json
from collections.abc import Container, Iterator, Mapping
from functools import cache
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from api.static import HEADERS, HTML

Schema = Mapping[str, Any]
_LIMITS = (
    ("minimum", "from {}"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "up to {}"),
    ("minLength", "at least {} long"),
    ("maxLength", "up to {} characters"),
    ("default", "else {}"),
)
_FORMATS = {"binary": "file"}


def add_reference(api: FastAPI) -> None:
    @cache
    def page() -> bytes:
        return reference(api.openapi()).encode()

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(page(), media_type=HTML, headers=HEADERS)


def reference(description: Schema) -> str:
    """The whole page."""
    title = escape(description["info"]["title"])
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{title}: the API</title>\n<link rel="icon" href="data:,">',
            '<link rel="stylesheet" href="page/style.css">\n</head>\n<body>\n<main class="wide">',
            f"<h1>{title}: the API</h1>\n<p>{_marked(description['info']['description'])}</p>",
            '<p><a href="./">Try it</a> or take <a href="openapi.json">the description itself</a>.',
            *_operations(description["paths"]),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _operations(paths: Mapping[str, Mapping[str, Schema]]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p>{_marked(operation.get('description', ''))}</p>"
            for parameter in operation.get("parameters", ()):
                fields = {parameter["name"]: parameter["schema"]}
                yield _fields(f"In the {parameter['in']}", fields, list(fields))
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                schema = content["schema"]
                yield _fields(f"Body: {kind}", schema["properties"], schema.get("required", ()))
                if example := content.get("example"):
                    yield f"<pre><code>{escape(json.dumps(example, indent=2))}</code></pre>"
            yield "<ul>"
            for status, answer in operation["responses"].items():
                kinds = ", ".join(answer.get("content", {}))
                said = answer["description"] + (f" ({kinds})" if kinds else "")
                yield f"<li><strong>{_status(status)}</strong> {escape(said)}</li>"
            yield "</ul>"


def _fields(title: str, fields: Mapping[str, Schema], required: Container[str]) -> str:
    shown = [
        f"<dt><code>{escape(name)}</code>{' (needed)' if name in required else ''}</dt>"
        + "".join(f"<dd>{escape(said)}</dd>" for said in _meaning(schema))
        for name, schema in fields.items()
    ]
    return "\n".join([f"<h3>{escape(title)}</h3>", "<dl>", *shown, "</dl>"])


def _meaning(schema: Schema) -> Iterator[str]:
    for said in (schema.get("description"), _kind(schema)):
        if said:
            yield said


def _kind(schema: Schema) -> str:
    """What a value may be, in words."""
    if "anyOf" in schema:
        return ", or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        default = schema.get("default")
        return ", ".join(
            f"{each} (default)" if each == default else each for each in schema["enum"]
        )
    if "properties" in schema:
        return "object with " + ", ".join(schema["properties"])
    words = [_FORMATS.get(schema.get("format", ""), schema.get("type", ""))]
    words += (
        words_of.format(_number(schema[name])) for name, words_of in _LIMITS if name in schema
    )
    return ", ".join(filter(None, words))


def _number(value: Any) -> str:
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def _status(status: str) -> str:
    return "Else" if status == "default" else escape(status)


def _marked(text: str) -> str:
    """Text with `code` in it."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
