"""Realtime with CUDA graphs, as far as a CPU can tell: see `emulated_graphs.py`."""

import numpy as np
import pytest

pytest.importorskip("torch")

from engines.base import Options
from tests.emulated_graphs import EmulatedGraphs
from tests.engine_contract import by_chunk
from tests.test_engine_realtime import TEXT, grown, heard, new_engine, plan

pytestmark = pytest.mark.realtime


def test_replayed_steps_of_text_and_frames_give_the_bits_of_eager_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read a step late, in slots that are left and filled again while it runs."""
    asked = plan(TEXT, "More of it.", "And more.", options=Options(steps=5))
    eager = new_engine(slots=2)
    wanted = by_chunk(list(eager.start(asked)))
    eager.close()
    graphs = EmulatedGraphs()
    graphs.install(monkeypatch)
    own = new_engine(slots=2)
    made = by_chunk(list(own.start(asked)))
    assert all(np.array_equal(made[chunk], samples) for chunk, samples in wanted.items())
    in_pieces = heard(grown([TEXT[:9], TEXT[9:]], own))
    assert np.array_equal(in_pieces, heard(list(own.start(plan(TEXT)))))
    figures = own.capabilities.figures
    own.close()
    assert (figures["frames_eager"], graphs.waits > 0) == (0, True)
    assert figures["frames_replayed"] > 100
