"""What a request's `model` and `language` mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Capabilities
from request.errors import RequestError
from request.model import Defaults, parse_request
from request.models import OPENAI_NAMES, ModelNames, listed

ALONE = ModelNames.of(("espeak",), {}, "vibevoice/VibeVoice-7B")
MANY = ModelNames.of(("kokoro", "vibevoice"), {"my-tts": "vibevoice", "tts-1": "kokoro"}, "/m/mine")


@pytest.mark.parametrize(
    ("names", "name", "meant"),
    [
        (ALONE, None, "espeak"),
        (ALONE, "espeak", "espeak"),
        (ALONE, "VibeVoice", "espeak"),
        (ALONE, "vibevoice/vibevoice-7b", "espeak"),
        (ALONE, "VibeVoice-7B", "espeak"),
        (ALONE, "TTS-1", "espeak"),
        (MANY, None, "kokoro"),
        (MANY, "vibevoice", "vibevoice"),
        (MANY, "/m/mine", "vibevoice"),
        (MANY, "Mine", "vibevoice"),
        (MANY, "MY-TTS", "vibevoice"),
        (MANY, "tts-1", "kokoro"),
        (MANY, "tts-1-hd", "kokoro"),
    ],
)
def test_a_name_means_a_model(names: ModelNames, name: str | None, meant: str) -> None:
    assert names.resolve(name) == meant


def test_an_alias_comes_before_openais_name() -> None:
    names = ModelNames.of(("kokoro", "piper"), {"tts-1": "piper"}, "")
    assert (names.resolve("tts-1"), names.resolve("tts-1-hd")) == ("piper", "kokoro")


def test_an_unknown_name_is_told_with_the_list_but_without_a_path() -> None:
    with pytest.raises(RequestError) as error:
        MANY.resolve("gpt-5")
    (problem,) = error.value.problems
    assert (problem.field, problem.code) == ("model", "model_not_found")
    others = ", ".join(OPENAI_NAMES[1:])
    assert problem.allowed == f"kokoro, vibevoice, mine, my-tts, tts-1, {others}"


@given(st.text(max_size=20))
def test_every_name_means_one_of_the_models_or_is_refused(name: str) -> None:
    known = {each.lower() for each in MANY.names}
    try:
        assert MANY.resolve(name) in MANY.ids
    except RequestError:
        assert name.lower() not in known


def test_a_parsed_request_has_the_id_of_its_model() -> None:
    defaults = Defaults(models=MANY)
    for fields, meant in [({}, "kokoro"), ({"model": "My-TTS"}, "vibevoice")]:
        assert parse_request({"text": "Hi.", **fields}, defaults)[0].model == meant
    with pytest.raises(RequestError, match="'piper' does not exist"):
        parse_request({"text": "Hi.", "model": "piper"}, defaults)


@pytest.mark.parametrize(
    ("tag", "found"),
    [
        ("en", "en-US"),
        ("EN-gb", "en-GB"),
        ("en-AU", "en-US"),
        ("de-AT-1901", "de"),
        ("zh-Hant-TW", "zh"),
        ("fr", None),
        ("e", None),
    ],
)
def test_a_language_is_looked_up_by_its_tag(tag: str, found: str | None) -> None:
    languages = ("en-US", "en-GB", "de", "zh")
    assert Capabilities("fake", cloning=False, languages=languages).language_of(tag) == found


def test_where_languages_are_not_known_every_tag_is_taken() -> None:
    assert Capabilities("fake", cloning=False, languages=()).language_of("xx-YY") == "xx-YY"


def test_realtime_has_a_long_name_in_requests_and_settings() -> None:
    names = ModelNames.of(("realtime", "espeak"), {}, "some/model")
    assert names.resolve("vibevoice-realtime") == names.resolve("VibeVoice-Realtime") == "realtime"
    assert not ModelNames.of(("espeak",), {}, "some/model").has("vibevoice-realtime")
    assert listed("vibevoice, VibeVoice-Realtime,") == ("vibevoice", "realtime")
