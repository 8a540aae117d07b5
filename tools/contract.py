"""Writes what others know of the request and of its errors, from the one place where it stands.

    python -m tools.contract

That is `bridge/codes.json`, `bridge/request.schema.json` and the tables of docs/api.md and
docs/transcription.md.
tests/test_contract.py holds all of them equal to what this would write.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from api.schema import OWN, SPEECH
from request.errors import CODES
from request.fields import notes_in
from request.model import SpeechRequest
from request.transcription import TranscriptionRequest
from request.values import TEXTS

ROOT = Path(__file__).resolve().parent.parent
API = ROOT / "docs" / "api.md"
TRANSCRIPTION = ROOT / "docs" / "transcription.md"


def files() -> dict[Path, str]:
    """What every file has to hold."""
    codes = {name: {"status": code.status, "retry": code.retry} for name, code in CODES.items()}
    bridge = ROOT / "bridge"
    return {
        bridge / "codes.json": _json(codes),
        bridge / "request.schema.json": json.dumps(_schema(), indent=2) + "\n",
        API: _documented(API.read_text()),
        TRANSCRIPTION: _with_table(
            TRANSCRIPTION.read_text(), "Field", _fields(TranscriptionRequest), "Allowed"
        ),
    }


def _schema() -> dict[str, Any]:
    """A request for speech by OpenAI's protocol. No JSON schema can say which fields are OpenAI's
    (`x-openai`), and which texts stand for other values (`x-texts`)."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "SpeechRequest"}
    return draft | SPEECH | {"x-openai": list(OWN), "x-texts": TEXTS}


def _json(data: Mapping[str, Any]) -> str:
    """As prettier would have it: one line for each entry."""
    lines = (f"  {json.dumps(name)}: {_line(value)}" for name, value in data.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _line(value: Mapping[str, Any]) -> str:
    return "{ " + json.dumps(value)[1:-1] + " }"


def _documented(text: str) -> str:
    text = _with_table(text, "Field", _fields(SpeechRequest), "Allowed")
    rows = [f"| `{name}` | {code.status} | {code.meaning} |" for name, code in CODES.items()]
    return _with_table(text, "Code", ["| Code | Status | Meaning |", "| --- | --- | --- |", *rows])


def _fields(model: type[BaseModel]) -> list[str]:
    head = ["| Field | Allowed | Default | Meaning |", "| --- | --- | --- | --- |"]
    return head + [_field_row(model, name) for name in model.model_fields]


def _field_row(model: type[BaseModel], name: str) -> str:
    field, notes = model.model_fields[name], notes_in(model, name)
    named = f"`{name}`" + (f" (or `{notes['openai']}`)" if notes["openai"] else "")
    allowed = (field.description or "").replace("{max_text_length}", "`MAX_TEXT_LENGTH`")
    default = notes["unset"] or ("" if field.default is None else f"`{_plain(field.default)}`")
    cells = (named, allowed, default, notes["meaning"])
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).removesuffix(".0")


def _with_table(text: str, first: str, lines: list[str], second: str = "") -> str:
    """The text with these lines in place of the table whose first columns are these."""
    heads = f"{first} \\| {second}" if second else f"{first} \\|"
    table = re.compile(rf"^\| {heads}.*\n(?:\|.*\n)+", re.M)
    found, count = table.subn(lambda _: "\n".join(lines) + "\n", text)
    if count != 1:
        raise ValueError(f"the page has {count} tables of {first}")
    return found


def main() -> None:
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
