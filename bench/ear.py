"""The recogniser's real-time factor, and the peak memory of long recordings.

    python -m bench.ear              a minute of speech in every way, then 60 minutes and 3 hours
    python -m bench.ear --short      the minute alone

Piper speaks one minute, which is repeated for the long ones. Each line is a process of its own with
one thread. Its time is CPU seconds, since other work on the machine disturbs a clock.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from audio.pcm import SAMPLE_RATE, Samples
from engines.manager import ModelManager, Policy
from transcription.base import Options, seconds_of
from transcription.registry import register_recognizer
from transcription.transcriber import Transcriber

PARAGRAPHS = Path(__file__).with_name("paragraphs.txt")
WAYS = {
    "text": Options("en"),
    "language unknown": Options(),
    "words": Options("en", words=True),
    "speakers": Options("en", speakers=True),
}


def minute() -> Samples:
    """A minute of Piper's speech, in which nothing comes twice: Whisper takes that for a loop."""
    from tests.real_speech import piper

    return piper(PARAGRAPHS.read_text()[:1500])[: 60 * SAMPLE_RATE]


def mp3(file: Path, minutes: int) -> None:
    """Writes the minute as often as that."""
    samples = (minute() * 32_000).astype(np.int16)[None]
    with av.open(str(file), "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=SAMPLE_RATE, options={"b": "64k"})
        stream.layout = "mono"
        for _ in range(minutes):
            frame = av.AudioFrame.from_ndarray(samples, format="s16p", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


async def heard(file: Path, way: str) -> dict[str, float]:
    """CPU seconds and MiB of one recording."""
    lease = register_recognizer(ModelManager(Policy()), {"cpu_threads": 1})
    transcriber = Transcriber(lease, concurrency=1, longest_sec=4 * 3600)
    try:
        began = time.process_time()
        audio = await transcriber.decode(file, "file")
        decoded = time.process_time()
        figures = {"audio_sec": seconds_of(audio), "decode_sec": decoded - began}
        if way in WAYS:
            async with transcriber.hear(audio, WAYS[way]) as (_, segments):
                began = time.process_time()
                count = sum([1 async for _ in segments])
            figures |= {"hear_sec": time.process_time() - began, "segments": count}
        audio.close()
    finally:
        transcriber.close()
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def row(minutes: int, way: str) -> str:
    with tempfile.TemporaryDirectory(prefix="bench-ear-") as folder:
        file = Path(folder) / "speech.mp3"
        mp3(file, minutes)
        command = [sys.executable, "-m", "bench.ear", "--file", str(file), "--way", way]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(ran.stdout)
    factor = figures.get("hear_sec", 0) / figures["audio_sec"]
    shown = f"{factor:.3f}" if factor else "-"
    return (
        f"| {minutes} min | {way} | {figures['decode_sec']:.1f} | {shown} "
        f"| {figures['peak_mib']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--way", default="text")
    asked = parser.parse_args()
    if asked.file:
        print(json.dumps(asyncio.run(heard(asked.file, asked.way))))
        return
    print("| Recording | Heard for | Decoding, CPU s | CPU s a second of sound | Peak, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for way in WAYS:
        print(row(1, way), flush=True)
    if not asked.short:
        print(row(60, "speakers"), flush=True)
        print(row(180, "nothing, decoded alone"), flush=True)


if __name__ == "__main__":
    main()
