"""Takes on disk, and their join."""

from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.chunk_audio import Join, KeptChunkAudio
from audio.pcm import Samples


def steady(count: int, value: float) -> Samples:
    return np.full(count, value, np.float32)


def whole(join: Join) -> Samples:
    return np.concatenate([steady(0, 0), *join.read()])


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), max_size=40), st.integers(500, 3000))
def test_chunks_that_interleave_are_joined_in_order(order: list[int], size: int) -> None:
    with TemporaryFile() as spool:
        takes = [KeptChunkAudio(spool, 24_000, 1) for _ in range(5)]
        for chunk in order:
            takes[chunk].feed(steady(size, (chunk + 1) / 8))
        for take in reversed(takes):
            take.finish()
        join = Join.of(takes, [0, 7, 0, 70_000, 5, 11])
        samples = whole(join)
        assert len(samples) == join.count
        for chunk, (take, start) in enumerate(zip(takes, join.starts, strict=True)):
            assert take.count == size * order.count(chunk)
            if take.count:
                middle = samples[start + 240 : start + take.count - 240]
                assert (middle == (chunk + 1) / 8).all()
        if takes[4].count:
            assert not samples[len(samples) - 11 :].any()


def test_a_take_without_a_sound_leaves_the_pause_before_it_in_force(tmp_path: Path) -> None:
    with TemporaryFile(dir=tmp_path) as spool:
        takes = [KeptChunkAudio(spool, 24_000, 1) for _ in range(4)]
        for chunk in (1, 3):
            takes[chunk].feed(steady(1000, 0.5))
        for take in takes:
            take.finish()
        join = Join.of(takes, [100, 200, 300, 400, 500])
        assert list(join.gaps) == [0, 100, 0, 300, 500]
        assert list(join.starts) == [0, 100, 1100, 1400]
        assert len(whole(join)) == join.count == 100 + 1000 + 300 + 1000 + 500


def test_seconds_are_those_before_a_change_of_speed(tmp_path: Path) -> None:
    with TemporaryFile(dir=tmp_path) as spool:
        take = KeptChunkAudio(spool, 48_000, 2.0)
        take.feed(steady(24_000, 0.5))
        take.finish()
        assert take.count == 24_000
        assert take.seconds == 1.0
