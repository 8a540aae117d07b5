"""Prints the lines of product code by room: `python -m tools.code_lines [--files]`.

A line counts where a token of code begins or ends on it. Blank lines, comments and docstrings do
not count. Tests, benchmarks, examples and tools are no product.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_APART = {"tests", "bench", "examples", "tools", "bridge", "docs"}
_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip


def code_lines(source: str) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - _docstring_lines(ast.parse(source)))


def _docstring_lines(tree: ast.Module) -> set[int]:
    """Of strings that stand as statements: docstrings, and what describes an attribute."""
    found: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                found |= set(range(first, last + 1))
    return found


def product() -> dict[Path, int]:
    """Lines of code by file, relative to the root."""
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return {
        path: code_lines((ROOT / path).read_text())
        for path in sorted(files)
        if path.parts[0] not in _APART and not path.parts[0].startswith(".")
    }


def main() -> None:
    lines = product()
    rooms: Counter[str] = Counter()
    for path, count in lines.items():
        rooms["/".join(path.parts[:-1]) or "."] += count
        if "--files" in sys.argv:
            print(f"{count:6} {path}")
    for room, count in sorted(rooms.items()):
        print(f"{count:6} {room}")
    print(f"{rooms.total():6} in all")


if __name__ == "__main__":
    main()
