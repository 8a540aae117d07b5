"""Texts as people paste them, and what is spoken of each: a line a case in `cases_*.jsonl`.

`input` is a job, `expect` holds what has to be true of its dry run:

- `spoken`: every turn joined by ` / `; `contains`, `lacks`, and `matches` (patterns) of it;
- `chunks`, `min_chunks`: their number; `lead_ms`, `pauses_ms`: silence before and after each;
- `speakers`: a script's numbers; `turn_speakers`: each turn's, from 0 in order of appearance;
- `no_turn_starts`; `max_chunk_chars`; `max_chunk_letters`, of which a CJK character counts 3;
- `preview_contains`, `preview_lacks`: what espeak gets; `warnings`: all of them;
- `pace_not_odd_at_sec`: a reading of that length is right.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import Settings
from engines.espeak.reading import plain
from request.model import parse_request
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine
from text.chunks import Limits, plan_text
from text.pace import Pace
from text.reading import read

Case = dict[str, Any]
_TABLES = sorted(Path(__file__).parent.glob("cases_*.jsonl"))
CASES: list[Case] = [
    json.loads(line) for table in _TABLES for line in table.read_text("utf-8").splitlines()
]
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VibeVoiceInference]:
    volume = tmp_path_factory.mktemp("volume")
    settings = Settings.from_env({"VIBEVOICE_VOLUME": str(volume)})
    inference = VibeVoiceInference(settings, FakeEngine())
    yield inference
    inference.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_text_is_read_as_a_careful_person_reads_it(
    inference: VibeVoiceInference, case: Case
) -> None:
    request, _ = parse_request(case["input"] | {"dry_run": True}, inference.defaults)
    answer = asyncio.run(inference.dry_run(request)).model_dump()
    expect = case["expect"]
    found = _found(answer)
    exact = {name: found[name] for name in found.keys() & expect.keys()}
    assert exact == {name: expect[name] for name in exact}
    said = found["spoken"]
    preview = " / ".join(map(plain, found["turns"]))
    assert [part for part in expect.get("contains", []) if part not in said] == []
    assert [part for part in expect.get("lacks", []) if part in said] == []
    assert [part for part in expect.get("matches", []) if not re.search(part, said)] == []
    assert [part for part in expect.get("preview_contains", []) if part not in preview] == []
    assert [part for part in expect.get("preview_lacks", []) if part in preview] == []
    starts = tuple(expect.get("no_turn_starts", ()))
    assert [turn for turn in found["turns"] if starts and turn.startswith(starts)] == []
    assert len(answer["chunks"]) >= expect.get("min_chunks", 0)
    sizes = [(len(text), len(text) + 2 * len(_WIDE.findall(text))) for text in found["texts"]]
    assert all(chars <= expect.get("max_chunk_chars", chars) for chars, _ in sizes), sizes
    assert all(letters <= expect.get("max_chunk_letters", letters) for _, letters in sizes), sizes
    if seconds := expect.get("pace_not_odd_at_sec"):
        assert not Pace(Settings().pace_tolerance).is_odd(
            "Alice", " ".join(found["texts"]), seconds
        )


def _found(answer: dict[str, Any]) -> dict[str, Any]:
    turns = [turn for chunk in answer["chunks"] for turn in chunk["turns"]]
    numbers = list(dict.fromkeys(turn["speaker"] for turn in turns))
    return {
        "spoken": " / ".join(turn["text"] for turn in turns),
        "chunks": len(answer["chunks"]),
        "lead_ms": answer["lead_ms"],
        "pauses_ms": [chunk["pause_ms"] for chunk in answer["chunks"]],
        "speakers": list(map(int, answer["speakers"])),
        "turn_speakers": [numbers.index(turn["speaker"]) for turn in turns],
        "warnings": answer["warnings"],
        "turns": [turn["text"] for turn in turns],
        "texts": [" ".join(turn["text"] for turn in chunk["turns"]) for chunk in answer["chunks"]],
    }


_FIELDS = {
    *("spoken", "contains", "lacks", "matches", "chunks", "min_chunks", "lead_ms", "pauses_ms"),
    *("speakers", "turn_speakers", "no_turn_starts", "max_chunk_chars", "max_chunk_letters"),
    *("preview_contains", "preview_lacks", "warnings", "pace_not_odd_at_sec"),
}


def test_every_case_has_an_id_of_its_own_and_something_to_hold() -> None:
    ids = [case["id"] for case in CASES]
    assert len(set(ids)) == len(ids)
    assert all(case["expect"].keys() <= _FIELDS and case["expect"] for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_every_character_of_a_case_knows_where_it_came_from(case: Case) -> None:
    source = case["input"]["text"]
    for passage in read(source).passages:
        assert len(passage.text.at) == len(passage.text.text)
        assert list(passage.text.at) == sorted(passage.text.at)
        assert max(passage.text.at) < len(source)


_HOSTILE = [
    *("Speaker 1 - ", "Speaker 1\n", "\nSpeaker 1: a", "<Person1>", "[1]: a\n", "a: b\n", "00:01 "),
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
    *("a [1], ", "\u30101\u2020a", "citeturn0a0", "\u251c\u2500 a\n", '<details type="reasoning">'),
    *("\u6f22\u304b(\u304b", "\u6f22(\u0101 ", "[1] a\n", "\u8d70*a*", "[[pause ", "< think >"),
    *("<![CDATA[", "::: a\n", "[a][1] ", "1: a\n", "$f: A "),
    *("\\boxed{", "$a+", "0:01\na\n", "[00:01.00]", "\uff5ca\u300a", "a- the ", "a-\n\n\n\nb"),
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


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "a!",
            "a?b",
            '?"',
            "!) ",
            "'a ",
            '"a ',
            "\u201ca",
            "\u00aba ",
            "(a. ",
            "a.B",
            "left.She ",
            "A! b ",
            "a.\u201dB",
            "der 2. B ",
        ),
        *("Dr. ", "No. 5 ", "approx. ", "\u0442. \u0435. ", "1. ", '"What?" Tom ', "...", "[a] "),
        *(
            "\u5b57\u3002",
            "\u5b57",
            "\u0e40",
            "\u0915\u094d\u200d",
            "x" * 50,
            "word ",
            "[pause] a. ",
        ),
        *(
            "[pause] a. ",
            "[S1] ",
            "[1]: a. ",
            "Speaker 1: ",
            ". Speaker 1: a",
            "00:01 - ",
            "Anna: a\n",
            "a\n\n",
        ),
    ],
)
def test_four_times_the_text_takes_about_four_times_as_long_to_plan(unit: str) -> None:
    def seconds(characters: int) -> float:
        text = f"Begin. {unit * (characters // len(unit))} End."
        start = time.process_time()
        plan_text(text, Limits())
        return time.process_time() - start

    assert any(seconds(40_000) < 9 * seconds(10_000) for _ in range(3))
