"""Who says whose lines."""

from pathlib import Path
from typing import Any

import pytest

from request.errors import VoiceError
from request.model import Defaults, parse_request
from voices.casting import cast, names_of, unmatched
from voices.catalogue import Voice, VoiceMapper

RECORDED = Voice("recorded")


@pytest.fixture
def mapper(tmp_path: Path) -> VoiceMapper:
    return VoiceMapper(tmp_path, default="Alice", builtin=("Alice", "Frank", "Mary"), strict=True)


def names(
    mapper: VoiceMapper, numbers: list[int], known: dict[int, Voice] | None = None, **fields: Any
) -> tuple[dict[int, str], list[str]]:
    """Names of voices by speaker, and warnings; the recording is refused where nobody sent one."""
    request, _ = parse_request({"text": "Hi.", **fields}, Defaults())

    def recording() -> tuple[Voice, list[str]]:
        if not request.voice_url:
            raise AssertionError("no recording was sent")
        return RECORDED, ["voice_url: noted"]

    named = names_of(request, numbers)
    voices, warnings = cast(request, numbers, named, mapper, recording, known or {})
    return {number: voice.name for number, voice in voices.items()}, warnings


def test_the_first_gets_speaker_name_and_others_what_is_free(mapper: VoiceMapper) -> None:
    assert names(mapper, [0]) == ({0: "Alice"}, [])
    assert names(mapper, [7, 3], speaker_name="Frank") == ({7: "Frank", 3: "Alice"}, [])
    assert names(mapper, [1, 2, 3]) == ({1: "Alice", 2: "Frank", 3: "Mary"}, [])
    voices, warnings = names(mapper, [1, 2, 3, 4])
    assert voices[4] == "Alice"
    assert warnings == ["speakers: there are too few voices, so Speaker 4 shares one"]


def test_names_count_by_number_or_in_order_of_appearance(mapper: VoiceMapper) -> None:
    by_number = names(mapper, [5, 2], speakers={"2": "Mary", "5": "Frank"})
    assert by_number == names(mapper, [5, 2], speakers=["Frank", "Mary"])
    assert by_number[0] == {5: "Frank", 2: "Mary"}
    assert names(mapper, [5, 2], speakers={"2": "Alice"})[0] == {5: "Frank", 2: "Alice"}
    with pytest.raises(VoiceError, match=r"^speakers\.2: no voice 'nobody'"):
        names(mapper, [5, 2], speakers={"2": "nobody"})


def test_a_recording_is_asked_for_only_where_it_speaks(mapper: VoiceMapper) -> None:
    sent: dict[str, Any] = {"voice_url": "https://example.com/me.wav"}
    voices, warnings = names(mapper, [1, 2], speaker_name="Frank", **sent)
    assert voices == {1: "recorded", 2: "Alice"}
    assert warnings == [
        "voice_url: noted",
        "speaker_name: ignored, since a recording is given",
    ]
    assert names(mapper, [1, 2], speakers=["Mary", "Frank"], **sent) == (
        {1: "Mary", 2: "Frank"},
        [],
    )


def test_known_speakers_keep_their_voices_and_leave_the_others_to_who_is_new(
    mapper: VoiceMapper,
) -> None:
    known = {0: Voice("Mary")}
    before = dict(known)
    assert names(mapper, [0, 1, 2], known, speakers=["Frank"])[0] == {
        0: "Mary",
        1: "Alice",
        2: "Frank",
    }
    assert known == before


def test_names_that_a_text_has_no_use_for_are_told() -> None:
    request, _ = parse_request({"text": "Hi.", "speakers": {"1": "A", "4": "B"}}, Defaults())
    assert unmatched(request, ()) == ["speakers: ignored, since the text has no `Speaker N:` lines"]
    assert unmatched(request, (1,)) == ["speakers: the text has no lines of Speaker 4"]
    assert unmatched(request, (4, 1)) == []
    listed, _ = parse_request({"text": "Hi.", "speakers": ["A", "B"]}, Defaults())
    assert unmatched(listed, (4,)) == ["speakers: the text has lines of 1 speakers only"]
