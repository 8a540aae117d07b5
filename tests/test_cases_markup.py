"""Texts as people paste them, and what is spoken of each: `cases_markup.jsonl`, a line a case.

`expect` may hold, and all of it must: `spoken`, every turn as prepared for VibeVoice joined by
` / `; `contains`, `lacks` and `matches` (patterns) of it; `preview_contains` and `preview_lacks`
of what espeak gets; `chunks`, `pauses_ms` after each chunk, and `warnings`.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from engines.espeak import _plain
from engines.vibevoice.prompt import spoken
from speech.chunks import Limits, TextPlan, plan_text
from speech.text import read

_TABLE = Path(__file__).with_name("cases_markup.jsonl")
_CASES = [json.loads(line) for line in _TABLE.read_text(encoding="utf-8").splitlines()]


def _said(plan: TextPlan) -> list[str]:
    return [turn.text for chunk in plan.chunks for turn in spoken(chunk.turns)]


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case["id"])
def test_a_text_is_read_as_a_careful_person_reads_it(case: dict[str, Any]) -> None:
    plan = plan_text(case["input"]["text"], Limits())
    said = " / ".join(_said(plan))
    preview = " / ".join(map(_plain, _said(plan)))
    exact = {
        "spoken": said,
        "chunks": len(plan.chunks),
        "pauses_ms": [chunk.pause_ms for chunk in plan.chunks],
        "warnings": list(plan.warnings),
    }
    expect = case["expect"]
    wanted = {name: expect[name] for name in exact if name in expect}
    assert {name: exact[name] for name in wanted} == wanted
    assert [part for part in expect.get("contains", []) if part not in said] == []
    assert [part for part in expect.get("lacks", []) if part in said] == []
    assert [part for part in expect.get("matches", []) if not re.search(part, said)] == []
    assert [part for part in expect.get("preview_contains", []) if part not in preview] == []
    assert [part for part in expect.get("preview_lacks", []) if part in preview] == []


def test_every_case_has_an_id_of_its_own_and_something_to_hold() -> None:
    ids = [case["id"] for case in _CASES]
    assert len(set(ids)) == len(ids)
    assert all(case["expect"] for case in _CASES)


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case["id"])
def test_every_character_of_a_case_knows_where_it_came_from(case: dict[str, Any]) -> None:
    source = case["input"]["text"]
    for passage in read(source).passages:
        assert len(passage.text.at) == len(passage.text.text)
        assert list(passage.text.at) == sorted(passage.text.at)
        assert max(passage.text.at) < len(source)


_HOSTILE = [
    *(
        "`a",
        "``a",
        "<sup>1",
        "<sup><a ",
        "<ruby>",
        "<rt>a",
        "&lt;a",
        "&amp;amp;a",
        "<Mark>",
        "</a>",
    ),
    *(
        "$a=",
        "\\(a=",
        "\\[a=",
        "\\begin{a}",
        "10^",
        "10²",
        "a¹,",
        "$1-",
        "$5 bill ",
        "5 € ",
        "$5-a-",
    ),
    *(
        " [1] a",
        "(1)",
        " (1).",
        "[edit]",
        "[pause ",
        "<pause a=",
        "[[a|",
        "![[a",
        "%%a",
        "==a",
        "*a. ",
    ),
    *(
        "a-\nb",
        "a- b",
        "\n1\n",
        "a\n\n1\n\n",
        "___ ",
        "_ _",
        "\\nA",
        "\\u00",
        "\x1b[",
        "[1m",
        "①",
        "ﬁ",
    ),
    *("<think>", "</think>\n", "<think>x</think>", "<|channel|>analysis", "---\na: b\n", "│", "─"),
    *("1\n00:00:01,000 --> 00:00:02,000\na\n", "漢(か", "《か", "{漢|", "\u00ad\n", '<sub alias="'),
]


@pytest.mark.parametrize("unit", _HOSTILE)
def test_four_times_the_hostile_text_takes_about_four_times_as_long(unit: str) -> None:
    def seconds(characters: int) -> float:
        text = f"Begin. {unit * (characters // len(unit))}\n\nEnd."
        start = time.process_time()
        read(text)
        return time.process_time() - start

    # A square law would give 16. CPU time is disturbed too: one clean try of three is enough.
    assert any(seconds(40_000) < 9 * seconds(10_000) for _ in range(3))
