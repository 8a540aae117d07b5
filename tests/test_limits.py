"""docs/api.md has every limit in one table, and each is the code's."""

import re

import server
from config import ROOT, Settings
from delivery.answer import INLINE_LIMIT
from request import values
from text.pauses import MAX_PAUSE_MS
from worker.jobs import _MOST_POSTED

RUNPOD_RUN_BYTES = 10_000_000


def rows() -> dict[str, str]:
    section = (ROOT / "docs" / "api.md").read_text().split("## Limits")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+?) \| .*\|$", section, re.M))


def test_each_limit_of_the_table_is_the_codes() -> None:
    usual, there = Settings.from_env({}), Settings.from_env({"RUNPOD_POD_ID": "pod"})
    on_runpod = f"{usual.max_request_sec:g} s; {there.max_request_sec:g} s on RunPod"
    waiting = f"{usual.max_streams} and {usual.max_queue}"
    socket = f"{usual.max_sessions}, and {server.MOST_MESSAGE_BYTES >> 10} KiB"
    assert rows() == {
        "What": "Limit",
        "---": "---",
        "A text": f"{usual.max_text_length:,} characters",
        "An `input` over HTTP": f"{usual.openai_input_limit:,} characters",
        "A chunk": f"{usual.max_chunk_chars:,} characters",
        "Voices of a script": f"{values.MAX_SPEAKERS}",
        "`pronunciations`": f"{values.MAX_PRONUNCIATIONS}, of {values.MAX_WORD} characters each",
        "`voice_base64`": f"{values.MOST_INLINE_BYTES / 1e6:g} MB",
        "A recording behind `voice_url` or uploaded": f"{values.MOST_RECORDING_BYTES >> 20} MiB",
        "A pause tag": f"{MAX_PAUSE_MS // 1000} s",
        "Audio inside of an answer": f"{INLINE_LIMIT >> 20} MiB",
        "A job by `/run`, and its answer": f"{RUNPOD_RUN_BYTES // 10**6} MB",
        "A job by `/runsync`, and its answer": "20 MB",
        "An item of a stream": f"{_MOST_POSTED / 1e6:g} MB",
        "The time of a job": "600 s",
        "The answer of a job is kept": "30 min by `/run`, 1 min by `/runsync`",
        "The time of an answer over HTTP": on_runpod,
        "A request behind RunPod's load balancer": "330 s, and 30 MB each way",
        "Answers spoken over HTTP at once, and waiting": waiting,
        "WebSockets, and a message on one": socket,
    }
    assert there.max_request_sec < 330


def test_a_job_with_the_largest_recording_and_the_longest_text_fits_into_run() -> None:
    """A client may escape every letter of a text: six bytes."""
    text = Settings.from_env({}).max_text_length * len("\\u4e2d")
    assert values.MOST_RECORDING_CHARS + text < RUNPOD_RUN_BYTES
