"""Realtime behind the doors: an utterance that is written word by word, a file, a recording."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

pytest.importorskip("torch")

from config import Settings
from synthesis.inference import VibeVoiceInference
from tests.http_server import Server, serving
from tests.test_engine_realtime import checkpoint, new_engine
from tests.tiny_realtime import VOICES

pytestmark = pytest.mark.realtime

PATH = "/v1/audio/speech/stream"
TEXT = "Hello there, how are you? It costs $5 and is fine. Dr. Smith said so [pause 300] and left."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    volume = tmp_path_factory.mktemp("volume")
    settings = Settings.from_env({"VIBEVOICE_VOLUME": str(volume)})
    with serving(VibeVoiceInference(settings, new_engine(slots=1), 1)) as made:
        yield made


async def spoken(server: Server, pieces: list[str], seconds: float) -> tuple[bytes, list[Any]]:
    """The samples of an utterance whose pieces are so many seconds apart, and the messages."""
    audio, messages = b"", list[Any]()
    config = {"type": "session.config", "voice": "Emma", "loudness": None, "seed": 3, "steps": 1}
    async with connect(f"ws://127.0.0.1:{server.port}{PATH}") as socket:
        await socket.send(json.dumps(config))

        async def write() -> None:
            for piece in pieces:
                await socket.send(json.dumps({"type": "input.text", "text": piece}))
                await asyncio.sleep(seconds)
            await socket.send(json.dumps({"type": "input.done"}))

        writing = asyncio.create_task(write())
        async with asyncio.timeout(120):
            while not messages or messages[-1]["type"] not in ("session.done", "error"):
                data = await socket.recv()
                if isinstance(data, bytes):
                    audio += data
                else:
                    messages.append(json.loads(data))
        await writing
    return audio, messages


def test_a_word_every_200_ms_sounds_as_all_at_once(server: Server) -> None:
    words = [f"{word} " for word in TEXT.split(" ")]
    at_once, messages = asyncio.run(spoken(server, [TEXT], 0))
    assert messages[-1]["type"] == "session.done", messages
    assert len(at_once) > 24_000
    slowly, _ = asyncio.run(spoken(server, words, 0.2))
    assert slowly == at_once
    letters, _ = asyncio.run(spoken(server, list(TEXT), 0))
    assert letters == at_once


def test_sentences_are_one_line_up_to_a_pause_that_was_asked_for(server: Server) -> None:
    _, messages = asyncio.run(spoken(server, [TEXT], 0))
    starts = [message for message in messages if message["type"] == "audio.start"]
    places = [message["text_start"] for message in starts]
    assert places[0] == 0
    assert places == sorted(places)
    assert 1 < len(starts) <= 3


def test_a_file_is_spoken_by_a_voice_of_the_model(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}/v1/audio/speech"
    asked = {"input": "Hello there.", "voice": "Carter", "response_format": "wav", "model": "tts-1"}
    answer = httpx.post(url, json=asked, timeout=120)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 24_000


def test_the_voices_are_the_presets(server: Server) -> None:
    voices = httpx.get(f"http://127.0.0.1:{server.port}/v1/audio/voices", timeout=60).text
    assert all(name in voices for name in VOICES)


def test_a_recording_is_refused_at_the_door_with_the_reason(server: Server, tmp_path: Path) -> None:
    import base64

    import numpy as np
    import soundfile

    noise = 0.1 * np.random.default_rng(0).standard_normal(72_000)
    soundfile.write(tmp_path / "voice.wav", noise, 24_000)
    url = f"http://127.0.0.1:{server.port}/v1/audio/speech"
    recording = base64.b64encode((tmp_path / "voice.wav").read_bytes()).decode()
    asked = {"input": "Hello.", "voice": "x", "voice_base64": recording, "model": "tts-1"}
    answer = httpx.post(url, json=asked, timeout=120)
    assert answer.status_code == 400, answer.text
    assert "without the encoder" in answer.text
    assert checkpoint().exists()
