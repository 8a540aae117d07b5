"""Takes on disk, and their join."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.chunk_audio import Join, KeptChunkAudio
from audio.pcm import Samples
from audio.spool import Spool


def steady(count: int, value: float) -> Samples:
    return np.full(count, value, np.float32)


def joined(takes: Sequence[KeptChunkAudio], pauses: Sequence[int]) -> tuple[Samples, Join]:
    join = Join(pauses)
    blocks = [steady(0, 0)]
    for take in takes:
        for block in take.read():
            blocks += join.feed(block)
        join.end_chunk()
    blocks += join.finish()
    return np.concatenate(blocks), join


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), max_size=40), st.integers(500, 3000))
def test_chunks_that_interleave_are_joined_in_order(order: list[int], size: int) -> None:
    spool, pauses = Spool(), [0, 7, 0, 70_000, 5, 11]
    takes = [KeptChunkAudio(spool, 24_000, 1) for _ in range(5)]
    for chunk in order:
        takes[chunk].feed(steady(size, (chunk + 1) / 8))
    for take in reversed(takes):
        take.finish()
    samples, join = joined(takes, pauses)
    assert len(samples) == join.count
    for chunk, (take, start) in enumerate(zip(takes, join.starts, strict=True)):
        assert take.count == size * order.count(chunk)
        if take.count:
            middle = samples[start + 240 : start + take.count - 240]
            assert (middle == (chunk + 1) / 8).all()
    if takes[4].count:
        assert not samples[len(samples) - 11 :].any()
    spool.close()


def test_a_take_without_a_sound_leaves_the_pause_before_it_in_force(tmp_path: Path) -> None:
    spool, pauses = Spool(tmp_path), [100, 200, 300, 400, 500]
    takes = [KeptChunkAudio(spool, 24_000, 1) for _ in range(4)]
    for chunk in (1, 3):
        takes[chunk].feed(steady(1000, 0.5))
    for take in takes:
        take.finish()
    samples, join = joined(takes, pauses)
    assert join.starts == [0, 100, 1100, 1400]
    assert len(samples) == join.count == 100 + 1000 + 300 + 1000 + 500
    spool.close()


def test_seconds_are_those_before_a_change_of_speed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    take = KeptChunkAudio(spool, 48_000, 2.0)
    take.feed(steady(24_000, 0.5))
    take.finish()
    assert take.count == 24_000
    assert take.seconds == 1.0
    spool.close()


def test_a_spool_gives_back_what_lies_where_and_leaves_no_name_in_its_folder(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path)
    places = [spool.append(steady(size, size)) for size in (3, 70_000, 0, 5)]
    assert list(tmp_path.iterdir()) == []
    for size, place in reversed(list(zip((3, 70_000, 0, 5), places, strict=True))):
        blocks = list(spool.read(place))
        assert max([0, *map(len, blocks)]) <= 1 << 16
        assert np.array_equal(np.concatenate([steady(0, 0), *blocks]), steady(size, size))
    spool.clear()
    assert np.array_equal(np.concatenate(list(spool.read(spool.append(steady(2, 9))))), [9, 9])
    spool.close()
