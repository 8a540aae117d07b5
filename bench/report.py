"""The table of BENCHMARKS.md, and a chart, of what `gpu_check` wrote on any number of cards.

python -m bench.report gpu_check.json other.json ... [--svg cards.svg]

The table goes to stdout. Of a card and size that come twice, both are shown.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

SCHEMA = 1
_HEAD = (
    "Card",
    "Model",
    "torch",
    "Frame at 1 slot",
    "at 8",
    "at 32",
    "Audio a second",
    "An audio hour",
    "Against upstream",
    "First audio at 8, p50 (p95)",
    "Failed",
)
_NONE = "n/a"
_CONTEXT = 2048
_BAR, _GAP, _LABEL, _WIDTH = 22, 10, 340, 900  # the longest card has 50 characters


class Unreadable(ValueError):
    """A file that `gpu_check` did not write."""


class Check:
    """One file."""

    def __init__(self, path: Path) -> None:
        try:
            self.made: dict[str, Any] = json.loads(path.read_text())
            schema = self.made["schema"]
            self._rows = {row["name"]: row for row in self.made["rows"]}
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise Unreadable(f"{path}: gpu_check did not write this ({problem!r})") from None
        if schema != SCHEMA:
            raise Unreadable(f"{path}: schema {schema} where {SCHEMA} is known")

    def figures(self, name: str) -> Mapping[str, Any]:
        """Empty where the row is missing or does not apply."""
        figures: Mapping[str, Any] = self._rows.get(name, {}).get("figures", {})
        return figures

    @property
    def failed(self) -> list[str]:
        return [name for name, row in self._rows.items() if row["status"] == "failed"]

    def frame_ms(self, slots: int) -> float | None:
        """The best way's."""
        return min(self.figures(f"frame {slots}x{_CONTEXT}").values(), default=None)

    @property
    def pace(self) -> float:
        return float(self.figures("audio a second").get("audio_sec", 0))

    @property
    def dollars(self) -> float | None:
        return self.figures("cost of an audio hour").get("usd")

    @property
    def upstream(self) -> float | None:
        """The most, at the most slots."""
        names = [name for name in self._rows if name.startswith("faster than upstream, ")]
        return max((self.figures(name)["times"] for name in names), default=None)

    def cells(self) -> list[str]:
        first = self.figures("server, 8 at once")
        return [
            self.made["device"],
            self.made["size"],
            self.made["torch"],
            *(_said(self.frame_ms(slots), "{:.1f} ms") for slots in (1, 8, 32)),
            _said(self.pace or None, "{:.0f} s"),
            _said(self.dollars, "${:.4f}"),
            _said(self.upstream, "{:.1f} x"),
            "{p50_ms:.0f} ({p95_ms:.0f}) ms".format(**first) if first else _NONE,
            ", ".join(self.failed) or "nothing",
        ]


def _said(value: float | None, form: str) -> str:
    return _NONE if value is None else form.format(value)


def table(checks: Sequence[Check]) -> str:
    """Markdown, the quickest card first."""
    rows = [check.cells() for check in _ranked(checks)]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
        for row in (_HEAD, ["---"] * len(_HEAD), *rows)
    )


def chart(checks: Sequence[Check]) -> str:
    """SVG: a bar for the audio seconds a second of each card."""
    ranked = _ranked(checks)
    most = max((check.pace for check in ranked), default=0) or 1
    height = len(ranked) * (_BAR + _GAP) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        ' font-family="system-ui, sans-serif" font-size="13" fill="#6e7781">',
        '<text x="0" y="16">Seconds of audio a second, frames alone</text>',
    ]
    for place, check in enumerate(ranked):
        top = 30 + place * (_BAR + _GAP)
        length = (_WIDTH - _LABEL - 180) * check.pace / most
        name = escape(f"{check.made['device']}, {check.made['size']}")
        cost = _said(check.dollars, ", ${:.4f} an hour")
        said = f"{check.pace:.0f} s{'' if check.dollars is None else cost}"
        lines += [
            f'<text x="0" y="{top + 16}">{name}</text>',
            f'<rect x="{_LABEL}" y="{top}" width="{length:.1f}" height="{_BAR}" fill="#2f81f7"/>',
            f'<text x="{_LABEL + length + 8:.1f}" y="{top + 16}">{said}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _ranked(checks: Sequence[Check]) -> list[Check]:
    return sorted(checks, key=lambda check: -check.pace)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--svg", type=Path)
    asked = parser.parse_args(arguments)
    try:
        checks = [Check(path) for path in asked.files]
    except Unreadable as problem:
        print(f"report: {problem}", file=sys.stderr)
        return 1
    print(table(checks))
    if asked.svg:
        asked.svg.write_text(chart(checks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
