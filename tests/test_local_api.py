"""Jobs through the real RunPod SDK's local API, over real HTTP."""

import base64
import io
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.answers import audio_of
from tools.demo import post

pytestmark = pytest.mark.process
FOX = "The quick brown fox jumps over the lazy dog."


def run(port: int, **fields: Any) -> dict[str, Any]:
    return post(port, "/runsync", {"input": {"text": FOX, **fields}})


def answer(port: int, **fields: Any) -> dict[str, Any]:
    reply = run(port, **fields)
    assert reply["status"] == "COMPLETED", reply
    output: dict[str, Any] = reply["output"]
    return output


@pytest.mark.parametrize("output_format", ["mp3", "opus", "flac", "wav", "pcm"])
def test_every_format_holds_the_announced_seconds(local_api: int, output_format: str) -> None:
    output = answer(local_api, output_format=output_format, seed=1)
    samples, rate = audio_of(output)
    assert output["status"] == "success"
    # Without a gapless header an mp3 decoder gives its delay and padding too: at most 3 frames.
    allowed = 3 * 576 if output_format == "mp3" else 0
    seconds = len(samples) / rate
    assert 0 <= (seconds - output["duration_sec"]) * output["sample_rate"] <= allowed + 1
    assert 2 < seconds < 5
    assert 0.02 < float(np.sqrt(np.mean(samples**2))) < 0.3


@pytest.mark.smoke
def test_a_seed_gives_the_same_bytes_again(local_api: int) -> None:
    first, second = (answer(local_api, seed=5)["audio_base64"] for _ in range(2))
    assert first == second


def test_two_speakers_sound_different(local_api: int) -> None:
    alice, frank = (
        answer(local_api, speaker_name=name, output_format="wav")["audio_base64"]
        for name in ("Alice", "Frank")
    )
    assert alice != frank


def test_an_unknown_voice_is_a_warning_that_names_the_one_that_spoke(local_api: int) -> None:
    output = answer(local_api, speaker_name="Nobody")
    assert output["voice"] == "Alice"
    (warning,) = output["warnings"]
    assert warning.startswith("speaker_name: no voice 'Nobody'; 'Alice' speaks")


def test_a_copy_is_kept_under_the_session(local_api: int, volume: Path) -> None:
    output = answer(local_api, session_id="kept-here", output_format="flac")
    (copy,) = (volume / "output").glob("kept-here_*.flac")
    assert copy.read_bytes() == base64.b64decode(output["audio_base64"])


def test_a_dialogue_reports_its_speakers(local_api: int) -> None:
    output = answer(local_api, text="Speaker 1: Hi.\nSpeaker 4: Ho.", speakers=["Maya", "Carter"])
    assert output["speakers"] == {"1": "Maya", "4": "Carter"}


@pytest.mark.clock
@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"text": ""}, "[invalid_value] text: has 0 characters"),
        ({"text": "x" * 100_001}, "[string_above_max_length] text: has 100001 characters"),
        ({"cfg_scale": "abc"}, "[invalid_type] cfg_scale: 'abc' is not a number"),
        ({"speed": 99}, "[invalid_value] speed: 99 is out of range"),
        ({"output_format": "ogg"}, "[unsupported_format] output_format: 'ogg' is unknown"),
        ({"text": ["a", "list"]}, "[invalid_type] text: is a list"),
        ({"text": "\U0001f600" * 262_144}, "[string_above_max_length] text: has 262144 characters"),
        ({"text": " \n "}, "[invalid_value] text: is empty"),
        ({"speaker_name": "x\0y"}, "[invalid_value] speaker_name: "),
    ],
)
def test_bad_input_fails_the_job_with_a_sentence_within_100_ms(
    local_api: int, fields: dict[str, Any], problem: str
) -> None:
    run(local_api)  # warm: the first job loads the engine
    took: list[float] = []
    while not took or (took[-1] > 0.1 and len(took) < 50):  # the machine may be busy for a while
        start = time.perf_counter()
        reply = run(local_api, **fields)
        took.append(time.perf_counter() - start)
    assert reply["status"] == "FAILED"
    assert isinstance(reply["error"], str)
    assert reply["error"].startswith(problem)
    assert "(allowed: " in reply["error"] or "cannot be a voice" in reply["error"]
    assert not re.search(r"Traceback|File \"|/work|/tmp|\.py", reply["error"])
    assert took[-1] < 0.1, took


def test_a_queued_job_runs_when_its_status_is_asked_for(local_api: int) -> None:
    queued = post(local_api, "/run", {"input": {"text": FOX}})
    reply = post(local_api, f"/status/{queued['id']}", {})
    assert (queued["status"], reply["status"]) == ("IN_PROGRESS", "COMPLETED")
    assert audio_of(reply["output"])[1] == 24000


def test_jobs_side_by_side_do_not_mix(local_api: int) -> None:
    texts = [f"Number {index} of the jobs, said aloud." for index in range(4)]
    alone = [answer(local_api, text=text, seed=1)["audio_base64"] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda text: answer(local_api, text=text, seed=1)["audio_base64"], texts)
        )
    assert together == alone


def test_an_answer_is_strict_json(local_api: int) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads(json.dumps(answer(local_api)), parse_constant=refuse)


def test_spans_cover_the_text_and_the_audio(local_api: int) -> None:
    text = f"# Title\n\n{FOX} [pause:1s] **{FOX}**"
    output = answer(local_api, text=text, output_format="wav")
    first, second = output["chunks"]
    assert text[first["text_start"] : first["text_end"]] == f"# Title\n\n{FOX} [pause:1s]"
    assert text[second["text_start"] : second["text_end"]] == f"**{FOX}**"
    assert second["start_sec"] - first["end_sec"] == pytest.approx(1.0, abs=1e-6)
    assert second["end_sec"] == output["duration_sec"]
    samples, rate = audio_of(output)
    gap = samples[round(first["end_sec"] * rate) : round(second["start_sec"] * rate)]
    assert len(gap) == rate
    assert not gap.any()


def test_the_level_is_the_asked_one(local_api: int) -> None:
    import pyloudnorm

    for loudness in (-16, -24):
        output = answer(local_api, text=f"{FOX} " * 4, loudness=loudness, output_format="wav")
        samples, rate = audio_of(output)
        measured = pyloudnorm.Meter(rate).integrated_loudness(samples)
        assert measured == pytest.approx(loudness, abs=0.5)


def test_wav_carries_its_true_size(local_api: int) -> None:
    output = answer(local_api, output_format="wav")
    data = base64.b64decode(output["audio_base64"])
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert soundfile.info(io.BytesIO(data)).frames * 2 == len(data) - 44
