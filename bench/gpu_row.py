"""A row of `gpu_check`'s table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Figure = float | int | str | None


@dataclass(frozen=True, slots=True)
class Row:
    """`figures` are what the report computes with; their names end in their unit."""

    name: str
    status: Literal["ok", "failed", "n/a"]
    text: str
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"| {self.name:<24} | {self.status:<6} | {self.text}"

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.status,
            "text": self.text,
            "figures": dict(self.figures),
        }


def ok(name: str, text: str, **figures: Figure) -> Row:
    return Row(name, "ok", text, figures)


def failed(name: str, text: str, **figures: Figure) -> Row:
    return Row(name, "failed", text, figures)


def not_here(name: str, reason: str) -> Row:
    return Row(name, "n/a", reason)
