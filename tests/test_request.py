"""What a caller may ask for, and the words in which the rest is refused."""

import json
import pickle
import time
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.codecs import FORMATS
from request.errors import (
    CODES,
    DeliveryError,
    EngineError,
    EngineLost,
    Problem,
    RequestError,
    SpeechError,
    VoiceError,
)
from request.model import ALIASES, Defaults, Format, SpeechRequest, parse_request, words_of

DEFAULTS = Defaults()


def accepted(**fields: Any) -> SpeechRequest:
    request, warnings = parse_request({"text": "Hi.", **fields}, DEFAULTS)
    assert warnings == []
    return request


def refused(raw: Any) -> str:
    with pytest.raises(RequestError) as caught:
        parse_request(raw, DEFAULTS)
    return caught.value.told(words_of(raw))


def test_text_alone_is_enough_and_settings_fill_the_rest() -> None:
    request, warnings = parse_request({"text": "Hi."}, Defaults(10, 2.5, -20))
    assert warnings == []
    assert request == SpeechRequest(text="Hi.", model="vibevoice", cfg_scale=2.5, loudness=-20)
    assert (request.output_format, request.steps, request.speed, request.seed) == (
        "mp3",
        10,
        1.0,
        None,
    )


def test_openai_names_are_aliases() -> None:
    request, warnings = parse_request(
        {"input": "Hi.", "voice": {"id": "Bob"}, "response_format": "wav"}, DEFAULTS
    )
    assert (request.text, request.speaker_name, request.output_format) == ("Hi.", "Bob", "wav")
    assert warnings == []


@pytest.mark.parametrize("order", [1, -1])
def test_our_name_wins_over_an_alias_with_a_warning(order: int) -> None:
    fields = dict([("text", "ours"), ("input", "theirs")][::order])
    request, warnings = parse_request(fields, DEFAULTS)
    assert request.text == "ours"
    assert warnings == ["input: ignored, since text is given too"]


def test_numbers_and_booleans_given_as_strings_are_read() -> None:
    request = accepted(cfg_scale="2.5", seed="7", steps="20", speed="0.5", disable_prefill="true")
    assert (request.cfg_scale, request.seed, request.steps, request.speed) == (2.5, 7, 20, 0.5)
    assert request.disable_prefill is True


def test_null_is_as_good_as_absent_but_for_loudness() -> None:
    request = accepted(seed=None, speed=None, loudness=None, speaker_name=None)
    assert (request.seed, request.speed, request.loudness) == (None, 1.0, None)


def test_unknown_fields_do_not_fail_but_are_named() -> None:
    fields = {f"field{index}": index for index in range(30)}
    _, warnings = parse_request({"text": "Hi.", **fields}, DEFAULTS)
    assert warnings[0] == "'field0': unknown field, ignored"
    assert warnings[-1] == "and 10 more unknown fields, ignored"
    assert len(warnings) == 21


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ({"1": "Alice", "3": {"id": "Frank"}}, {1: "Alice", 3: "Frank"}),
        (["Alice", "Frank"], ("Alice", "Frank")),
    ],
)
def test_speakers_come_as_an_object_or_a_list(given_: Any, kept: Any) -> None:
    assert accepted(speakers=given_).speakers == kept


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"text": ""}, "text: has 0 characters (allowed: text of 1 to 100000 characters)"),
        ({"text": " \n"}, "text: is empty (allowed: text of 1 to 100000 characters)"),
        ({"text": "x" * 100_001}, "text: has 100001 characters (allowed: text of 1 to 100000 characters)"),
        ({"text": ["x"]}, "text: is a list (allowed: text of 1 to 100000 characters)"),
        ({"text": None}, "text: is missing (allowed: text of 1 to 100000 characters)"),
        ({"text": 5}, "text: 5 is no text (allowed: text of 1 to 100000 characters)"),
        ({"cfg_scale": "abc"}, "cfg_scale: 'abc' is not a number (allowed: a number above 0, up to 10)"),
        ({"cfg_scale": 0}, "cfg_scale: 0 is out of range (allowed: a number above 0, up to 10)"),
        ({"cfg_scale": "nan"}, "cfg_scale: 'nan' is not finite (allowed: a number above 0, up to 10)"),
        ({"speed": 99}, "speed: 99 is out of range (allowed: a number from 0.25 to 4)"),
        ({"speed": True}, "speed: is not a number (allowed: a number from 0.25 to 4)"),
        ({"seed": 1.5}, "seed: 1.5 is not a whole number (allowed: a whole number from 0 to 4294967295)"),
        ({"seed": 2**32}, "seed: 4294967296 is out of range (allowed: a whole number from 0 to 4294967295)"),
        ({"steps": 0}, "steps: 0 is out of range (allowed: a whole number from 1 to 100)"),
        ({"steps": {}}, "steps: is an object (allowed: a whole number from 1 to 100)"),
        ({"output_format": "ogg"}, "output_format: 'ogg' is unknown (allowed: mp3, opus, aac, flac, wav, pcm)"),
        ({"response_format": "MP3"}, "response_format: 'MP3' is unknown (allowed: mp3, opus, aac, flac, wav, pcm)"),
        ({"loudness": 0}, "loudness: 0 is out of range (allowed: a LUFS value from -40 to -6, or null)"),
        ({"disable_prefill": "maybe"}, "disable_prefill: 'maybe' is not true or false (allowed: true or false)"),
        ({"voice": "a" * 201}, f"voice: '{'a' * 35}...' is too long (allowed: a voice's name of up to 200 characters)"),
        ({"voice": ["x"]}, "voice: is a list (allowed: a voice's name of up to 200 characters)"),
        ({"session_id": "../up"}, "session_id: '../up' cannot be used (allowed: 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit)"),
        ({"request_id": "a b"}, "request_id: 'a b' cannot be used (allowed: 1 to 128 printable ASCII characters without spaces)"),
        ({"speakers": {"one": "A"}}, "speakers: 'one' is no speaker's number (allowed: up to 4 voices as {\"1\": \"Alice\", \"2\": \"Frank\"} or as a list in order of appearance)"),
        ({"speakers": list("ABCDE")}, "speakers: has 5 entries (allowed: up to 4 voices as {\"1\": \"Alice\", \"2\": \"Frank\"} or as a list in order of appearance)"),
        ({"pronunciations": {"a": ""}}, "pronunciations: 'a' has no usable respelling (allowed: up to 500 words of up to 100 characters with respellings of up to 100, as {\"word\": \"respelling\"})"),
    ],
)  # fmt: skip
def test_each_bad_value_is_named_with_what_is_allowed(
    fields: dict[str, Any], sentence: str
) -> None:
    assert refused({"text": "Hi.", **fields}) == sentence


def test_all_problems_are_named_at_once() -> None:
    fields = {"text": "", "cfg_scale": "abc", "speed": 99, "steps": "x", "nobody": 1}
    with pytest.raises(RequestError) as caught:
        parse_request(fields, DEFAULTS)
    assert [(each.field, each.code) for each in caught.value.problems] == [
        ("text", "invalid_value"),
        ("cfg_scale", "invalid_type"),
        ("steps", "invalid_type"),
        ("speed", "invalid_value"),
    ]
    assert refused(fields).split("; ")[1:] == [
        refused({"text": "Hi.", name: fields[name]}) for name in ("cfg_scale", "steps", "speed")
    ]


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({"text": None}, "text", "missing_required_parameter"),
        ({"input": "x" * 100_001}, "text", "string_above_max_length"),
        ({"voice": ["x"]}, "speaker_name", "invalid_type"),
        ({"response_format": "ogg"}, "output_format", "unsupported_format"),
        ({"response_format": 5}, "output_format", "invalid_type"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": 10**400}, "seed", "invalid_value"),
        ({"pronunciations": {"a": ""}}, "pronunciations", "invalid_value"),
    ],
)
def test_a_problem_is_data_under_our_own_name(
    fields: dict[str, Any], field: str, code: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request({"text": "Hi."} | fields if "input" not in fields else fields, DEFAULTS)
    (problem,) = caught.value.problems
    assert (problem.field, problem.code, problem.retry) == (field, code, None)
    assert problem.allowed
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - an engine's process sends it so
    assert again.problems == caught.value.problems


def test_a_sentence_names_the_place_in_the_callers_word() -> None:
    problem = Problem("speaker_name.2", "voice_not_found", "no voice 'Zed'")
    assert problem.told({"speaker_name": "voice"}) == "voice.2: no voice 'Zed'"
    assert problem.told({}) == "speaker_name.2: no voice 'Zed'"


def test_every_code_that_is_raised_is_in_the_list() -> None:
    kinds = [RequestError, VoiceError, EngineError, EngineLost, DeliveryError, SpeechError]
    assert {kind.code for kind in kinds} <= set(CODES)
    assert EngineLost("gone").problems[0].retry == 5


@pytest.mark.parametrize("raw", [None, [], "text", 5])
def test_an_input_that_is_no_object_is_refused(raw: Any) -> None:
    assert refused(raw).startswith("input: is ")


def test_a_megabyte_of_emoji_is_refused_at_once() -> None:
    text = "\U0001f600" * 262_144
    start = time.thread_time()
    assert refused({"text": text}).startswith("text: has 262144 characters")
    assert time.thread_time() - start < 0.1


def test_half_a_surrogate_pair_is_no_error() -> None:
    request = accepted(text="a\ud800b", pronunciations={"x\udfff": "y\ud800"}, voice="A\udc00")
    request.model_dump_json()
    assert (len(request.text), request.speaker_name) == (3, "A\ufffd")


def test_every_format_that_may_be_asked_for_has_a_codec() -> None:
    assert set(get_args(Format)) == set(FORMATS)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=30)
    | st.sampled_from(["1", "-1", "1e999", "nan", "true", "mp3", "9" * 400, "../x"]),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from([*SpeechRequest.model_fields, *ALIASES, "other"])


@settings(max_examples=500)
@given(st.dictionaries(NAMES, JSON, max_size=8) | JSON)
def test_any_input_is_accepted_or_refused_in_one_line_that_json_can_carry(raw: Any) -> None:
    try:
        request, warnings = parse_request(raw, DEFAULTS)
    except RequestError as error:
        message = str(error)
        assert message.encode("utf-8")
        assert "\n" not in message
        assert "allowed: " in message
        assert len(message) < 4000
    else:
        request.model_dump_json()
        json.dumps(warnings).encode("utf-8")
        assert 0.25 <= request.speed <= 4
        assert 0 < request.cfg_scale <= 10


@pytest.mark.parametrize(
    ("fields", "named"), [({}, False), ({"cfg_scale": None}, False), ({"cfg_scale": 1.3}, True)]
)
def test_a_request_knows_whether_its_guidance_was_asked_for(
    fields: dict[str, Any], named: bool
) -> None:
    request = accepted(**fields)
    assert request.cfg_scale == 1.3
    assert ("cfg_scale" in request.model_fields_set) is named
