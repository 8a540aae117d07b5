"""Whatever a field holds, the queue, the HTTP server and the bridge take or refuse it alike."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from api.contract import loads, parse
from api.errors import ApiError, as_api_error
from api.schema import EXTRAS, SPEECH
from request.errors import SpeechError
from request.model import Defaults, SpeechRequest, parse_request
from tests.need import BRIDGE, require_node

pytestmark = pytest.mark.process

ASK = {"model": "tts-1", "input": "Good morning.", "voice": "alloy"}
DEFAULTS = Defaults(max_text_length=4096)
SHARED = [*(name for name in SPEECH["properties"] if name in EXTRAS), "speed"]
PLAIN = {"cfg_scale", "seed", "steps", "speed", "loudness", "disable_prefill", "dry_run"}
OPENAIS = [name for name in SPEECH["properties"] if name not in SHARED]

Verdict = dict[str, Any]


@pytest.fixture(scope="module")
def bridge() -> Iterator[Callable[[str], Verdict]]:
    """What the bridge makes of a body, from a process that is asked again and again."""
    command = [require_node(), "test/verdicts.mjs"]
    with subprocess.Popen(
        command, cwd=BRIDGE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        sent, told = process.stdin, process.stdout

        def ask(body: str) -> Verdict:
            sent.write(body + "\n")
            sent.flush()
            verdict: Verdict = json.loads(told.readline())
            return verdict

        yield ask
        sent.close()
        assert process.wait(30) == 0


def by_http(body: str) -> Verdict:
    try:
        return taken(parse(loads(body), DEFAULTS).speech)
    except (ApiError, SpeechError) as error:
        told = as_api_error(error).body["error"]
        return {"param": told["param"], "code": told["code"]}


def by_queue(fields: dict[str, Any]) -> Verdict:
    try:
        return taken(parse_request({"text": "Good morning.", **fields}, DEFAULTS)[0])
    except SpeechError as error:
        first = error.problems[0]
        return {"param": first.field, "code": first.code}


def taken(request: SpeechRequest) -> Verdict:
    return {"taken": request.model_dump(include={*SHARED} - {"voice_base64"})}


def same_values(ours: Verdict, theirs: Verdict) -> bool:
    """Whether the bridge passes on what the worker reads of numbers and booleans."""
    taken = theirs["taken"]
    return all(ours["taken"][name] == taken[name] for name in PLAIN & taken.keys())


NUMBERS = st.sampled_from([
    "7", " 7 ", "+7", "-1", "7.0", "7.5", ".5", "5.", "1e1", "1e999", "1_0", "0x7", "nan", "-inf",
    "Infinity", "nan\n", "\u0667", "9" * 400, "9" * 401, "", "0.25", "4294967295", "4294967296",
    "\t7\n",
])  # fmt: skip
WORDS = st.sampled_from(["yes", "YES", "off", "t", "true", " true", "maybe", "1", "0", "2"])
TEXTS = st.sampled_from([
    "Alice", "", " ", "\ufeff", "\x85", "\x1c", "\ud800", "a" * 100, "a" * 101, "a" * 201,
    "\U0001d11e" * 100, "https://example.com/a.wav", "HTTP://x", "http://a b", "http://\ufeff",
    "http://x\n", "AAAA", "AA==", "A===", "====", "AB==", "AAA", "A-_A", "data:,x",
    "data:audio/wav;base64,AAAA",
])  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 1, 2, 10**400, 2**53, 2**53 - 1, 1e300, -0.0, 7.0, 1.5])
    | NUMBERS | WORDS | TEXTS | st.text(st.characters(exclude_categories=[]), max_size=8)
)  # fmt: skip
KEYS = st.sampled_from(
    ["1", "2", "01", "1234", "one", "1\n", "id", "", " ", "__proto__", "a" * 101]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=6,
)


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(SHARED), VALUES, min_size=1, max_size=2))
@example({"cfg_scale": "2", "seed": "7", "disable_prefill": "yes"})
@example({"speakers": {"1\n": "Alice"}})
@example({"pronunciations": {"b": 1, "1": ""}})
@example({"voice_url": "https://example.com/a.wav", "voice_base64": "AAAA"})
@example({"speakers": {"1": {"id": "Alice"}, "2": 3}})
@example({"speakers": {"1": {"id": "Alice", "more": 1}}})
def test_our_fields_are_taken_alike_at_all_three_doors(
    bridge: Callable[[str], Verdict], fields: dict[str, Any]
) -> None:
    body = json.dumps(ASK | fields)
    queue, http, theirs = by_queue(fields), by_http(body), bridge(body)
    if len(fields) == 1 or "taken" in queue:
        assert http == queue
    if "taken" in http:
        assert same_values(http, theirs)
    else:
        assert theirs == http


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(OPENAIS), VALUES, min_size=1, max_size=2))
@example({"voice": {"id": "alloy"}})
@example({"input": "a" * 4097})
def test_openais_fields_are_taken_alike_at_both_of_its_doors(
    bridge: Callable[[str], Verdict], fields: dict[str, Any]
) -> None:
    body = json.dumps(ASK | fields)
    http, theirs = by_http(body), bridge(body)
    if http.get("code") == "model_not_found":  # which models there are, the worker alone knows
        return
    assert ("taken" in http) == ("taken" in theirs)
    assert "taken" in http or theirs == http


@pytest.mark.parametrize("value", ["1e999", "-1e999", "1E5", "-0", "1.0", "4294967295.0"])
@pytest.mark.parametrize("name", SHARED)
def test_a_number_that_json_writes_otherwise_is_taken_alike(
    bridge: Callable[[str], Verdict], name: str, value: str
) -> None:
    body = json.dumps(ASK)[:-1] + f', "{name}": {value}}}'
    http, theirs = by_http(body), bridge(body)
    assert ("taken" in http) == ("taken" in theirs)
    assert "taken" in http or theirs == http
