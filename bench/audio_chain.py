"""How many times faster than real time the audio chain is, on one core and with many workers.

    python -m bench.audio_chain [seconds]
    python -m bench.audio_chain workers

Each stage gets what the stage before gave, in frames of 3200 samples as VibeVoice makes them;
loudness is measured chunk by chunk. The audio is made here: voiced syllables and pauses, in
chunks of 20 s. The limiter costs more where there is something to limit, so that share is printed.

`workers` runs a stream's stages in 1, 2 and 4 threads. On a busy machine only the fastest turn says
something.
"""

import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np

from audio.codecs import Encoder
from audio.loudness import Level, LoudnessMeter, gain_to
from audio.pcm import SAMPLE_RATE, Samples, silence
from audio.shaping import Shaper

FRAME = 3200
CHUNK_S = 20
GOAL = 100
P = ParamSpec("P")
T = TypeVar("T")


def speechlike(seconds: int, seed: int = 0) -> Samples:
    """Harmonics of a gliding pitch under a syllable envelope of changing loudness, with breath."""
    rng = np.random.default_rng(seed)
    count = seconds * SAMPLE_RATE
    t = np.arange(count) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(130 + 25 * np.sin(2 * np.pi * 0.4 * t)) / SAMPLE_RATE
    voiced = sum((np.sin(k * phase + k * k) / k for k in range(1, 25)), np.zeros(count))
    syllables = np.clip(np.sin(2 * np.pi * 3.7 * t) + 0.3, 0, None) ** 0.7
    words = np.interp(
        t, np.arange(seconds * 2 + 1) / 2, rng.uniform(0.1, 1.0, seconds * 2 + 1) ** 2
    )
    pauses = np.interp((t % 4.0), [0, 0.1, 3.5, 3.6, 4.0], [0, 1, 1, 0, 0])
    audio = 0.16 * voiced * syllables * words * pauses + 1e-4 * rng.standard_normal(count)
    return audio.astype(np.float32)


def frames(samples: Samples) -> list[Samples]:
    return [samples[i : i + FRAME] for i in range(0, len(samples), FRAME)]


def timed(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    start = time.process_time()
    result = work(*args, **kwargs)
    return result, time.process_time() - start


def shape(chunks: list[Samples], speed: float) -> list[Samples]:
    shaped = []
    for chunk in chunks:
        shaper = Shaper(SAMPLE_RATE, speed)
        pieces = [shaper.feed(frame) for frame in frames(chunk)]
        shaped.append(np.concatenate([*pieces, shaper.flush()]))
    return shaped


def join(chunks: list[Samples]) -> list[Samples]:
    gap = silence(SAMPLE_RATE // 4)
    return [frame for chunk in chunks for part in (chunk, gap) for frame in frames(part)]


def measure(chunks: list[Samples]) -> float | None:
    meter = LoudnessMeter(SAMPLE_RATE)
    for chunk in chunks:
        meter.add(chunk)
    return meter.integrated()


def level(pieces: list[Samples], gain_db: float) -> list[Samples]:
    stage = Level(SAMPLE_RATE, gain_db)
    return [*(stage.feed(piece) for piece in pieces), stage.flush()]


def encode(pieces: list[Samples], format_name: str) -> int:
    encoder = Encoder(format_name, SAMPLE_RATE)
    return sum(len(encoder.encode(piece)) for piece in pieces) + len(encoder.close())


def stream(pieces: list[Samples]) -> None:
    """What a stream's thread does after the engine."""
    shaper, stage, encoder = (
        Shaper(SAMPLE_RATE),
        Level(SAMPLE_RATE, 0.0),
        Encoder("mp3", SAMPLE_RATE),
    )
    for piece in pieces:
        encoder.encode(stage.feed(shaper.feed(piece)))
    encoder.encode(stage.feed(shaper.flush()))


STAGES: dict[str, Callable[[list[Samples]], object]] = {
    "trim, fade": lambda pieces: list(map(Shaper(SAMPLE_RATE).feed, pieces)),
    "level": lambda pieces: level(pieces, 0.0),
    **{name: partial(encode, format_name=name) for name in ("mp3", "opus", "flac")},
    "trim, level, mp3": stream,
}


def speed(work: Callable[[], object], count: int) -> float:
    """How often `count` threads do that in a second, all at the same time."""
    begin = threading.Barrier(count + 1)

    def one() -> None:
        begin.wait()
        work()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    begin.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return count / (time.perf_counter() - start)


def show_workers(seconds: int = 20, turns: int = 9) -> None:
    audio = speechlike(seconds)
    audio *= np.float32(10 ** (gain_to(-18.0, measure([audio])) / 20))
    print("Stage, samples a block: x real time in 1, 2 and 4 threads, the fastest of their turns;")
    print("2 threads against 1")
    for name, stage in STAGES.items():
        for size in (FRAME, SAMPLE_RATE):
            work = partial(stage, [audio[at : at + size] for at in range(0, len(audio), size)])
            speeds = [[speed(work, count) for count in (1, 2, 4)] for _ in range(turns)]
            one, two, four = (seconds * max(found) for found in zip(*speeds, strict=True))
            print(
                f"{name:18} {size:6,} {one:8,.0f} {two:8,.0f} {four:8,.0f} {two / one:6.2f}",
                flush=True,
            )


def main() -> None:
    if sys.argv[1:] == ["workers"]:
        show_workers()
        return
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    audio = speechlike(seconds)
    chunks = np.split(audio, range(CHUNK_S * SAMPLE_RATE, len(audio), CHUNK_S * SAMPLE_RATE))
    measure(chunks[:1])  # scipy's import is paid once a process

    def show(stage: str, spent: float) -> None:
        print(f"{stage:34} {spent * 1000 / seconds:7.2f} ms/s {seconds / spent:8.0f} x real time")

    def show_level(gain_db: float) -> tuple[list[Samples], float]:
        levelled, spent = timed(level, joined, gain_db)
        plain = np.concatenate(joined) * np.float32(10 ** (gain_db / 20))
        busy = float(np.mean(plain != np.concatenate(levelled)))
        show(f"gain {gain_db:+.1f} dB, limiter busy {busy:.0%}", spent)
        return levelled, spent

    shaped, shaping = timed(shape, chunks, 1.0)
    show("trim, fade", shaping)
    loudness, measuring = timed(measure, shaped)
    show("measure loudness", measuring)
    joined, joining = timed(join, shaped)
    show("join", joining)
    levelled, levelling = show_level(gain_to(-18.0, loudness))
    _, encoding = timed(encode, levelled, "mp3")
    show("mp3", encoding)
    show(f"all of these (goal: {GOAL} x)", shaping + measuring + joining + levelling + encoding)
    print()
    for loud in (-12.0, 0.0):
        show_level(gain_to(loud, loudness))
    for speed in (0.25, 0.8, 1.25, 4.0):
        show(f"trim, speed {speed}, fade", timed(shape, chunks, speed)[1])
    for name in ("opus", "aac", "flac", "wav", "pcm"):
        show(name, timed(encode, levelled, name)[1])


if __name__ == "__main__":
    main()
