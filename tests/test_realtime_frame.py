"""Realtime's steps against upstream's `generate`: real depth, little width, given tokens."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from bench.realtime_model import Voices, config, tensors
from engines.base import Options, PlannedChunk, Turn
from engines.realtime import sequence
from engines.realtime.batch import Batch
from engines.realtime.checkpoint import sizes_of
from engines.realtime.sequence import Text
from engines.realtime.text import TokenFeed
from engines.realtime.weights import Classifier, RealtimeWeights, load_weights
from engines.vibevoice.fast.scheduler import Scheduler
from engines.vibevoice.fast.sequence import SequenceGroup
from engines.vibevoice.frames import Frames
from engines.vibevoice.prompt import Prompt
from tests.golden.make_realtime import FILE
from tests.realtime_upstream import CASES, FRAMES, THINNED, Case, Heard

pytestmark = pytest.mark.realtime

CPU = torch.device("cpu")
SIZES = sizes_of(config("narrow"))
CAPACITY = 256
PROMPT = Prompt((), (), 0, 0)


@functools.cache
def plain_weights() -> RealtimeWeights:
    return load_weights(tensors("narrow").__getitem__, SIZES, CPU, torch.float32)


class Subject:
    """A batch whose latents and hidden states are noted, by slot, as frames are made."""

    def __init__(self, count: int, bias: float = -100.0, put_offs: int = 0) -> None:
        plain = plain_weights()
        end = plain.classifier
        raised = Classifier(end.first, end.first_bias, end.second, end.second_bias + bias)
        voices: Any = Voices("narrow")
        self.batch = Batch(
            replace(plain, classifier=raised),
            SIZES,
            voices,
            slots=count,
            capacity=CAPACITY,
            put_offs=put_offs,
        )
        self.latents: Any = None
        decoder, weights = self.batch.step.decoder, plain

        def noted(x: Any, contexts: Any) -> Any:
            self.latents = (x[:, 0] + weights.bias) * weights.scale
            self.hidden = self.batch.state.hidden[: len(x)].clone()
            return decoder(x, contexts)

        self.batch.step.decoder = noted  # type: ignore[assignment]

    def run(self, arrivals: Sequence[tuple[int, Case]], *, repeatable: bool = False) -> list[Heard]:
        """What comes for cases that arrive at given frames."""
        batch = self.batch
        scheduler = Scheduler(batch.slots, batch.context_step)
        texts = [text_of(case, repeatable=repeatable) for _, case in arrivals]
        made: dict[int, list[Any]] = {id(text): [] for text in texts}
        waiting, now = list(zip(arrivals, texts, strict=True)), 0
        while waiting or scheduler.groups:
            while waiting and waiting[0][0][0] <= now:
                scheduler.add(SequenceGroup(Frames(), [waiting.pop(0)[1]]))
            while entered := scheduler.next():
                batch.admit(entered, batch.lease())
            for shape, moved in scheduler.steps():
                step = batch.launch(shape, moved)
                for each in moved.values():
                    each.advance()
                for output in batch.read(step):
                    text, slot = output.sequence, output.sequence.slot
                    text.seen += 1
                    text.early |= output.early
                    heard = made[id(text)]
                    heard.append((self.latents[slot], self.hidden[slot], output.samples))
                    if output.eos or text.is_over:
                        batch.release(text)
                        scheduler.finish(text)
            now += 1
        self.texts = texts
        return [
            Heard(
                torch.stack([latent for latent, _, _ in made[id(text)]]),
                torch.stack([hidden for _, hidden, _ in made[id(text)]]),
                torch.from_numpy(np.stack([samples for _, _, samples in made[id(text)]])),
            )
            for text in texts
        ]


def text_of(case: Case, *, repeatable: bool = False) -> Text:
    feed = TokenFeed(lambda _: case.ids, "x")
    options = Options(case.guidance, case.steps, frames_per_token=0, min_frames=FRAMES)
    options = replace(options, repeatable=repeatable)
    chunk = PlannedChunk((Turn(0, "x"),), case.number)
    voice = f"{case.text} {case.frames}"
    return Text(0, chunk, options, [sequence.Turn(PROMPT, 0, voice, feed, CAPACITY)])


@functools.cache
def golden() -> dict[str, Any]:
    with np.load(FILE) as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def error(ours: Any, theirs: Any) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())


def assert_golden(heard: Heard, case: Case) -> None:
    known = golden()
    assert known[f"{case.number}.ids"].tolist() == case.ids
    assert error(heard.latents, known[f"{case.number}.latents"]) < 1e-4
    assert error(heard.hidden, known[f"{case.number}.hidden"]) < 1e-4
    thinned = heard.samples.reshape(-1)[::THINNED]
    assert error(thinned, known[f"{case.number}.samples"]) < 1e-4


ENDLESS = [case for case in CASES if case.bias == -100]
ENDING = [case for case in CASES if case.bias != -100]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.number))
def test_one_slot_speaks_as_upstream_does(case: Case) -> None:
    (heard,) = Subject(1, case.bias).run([(0, case)])
    assert_golden(heard, case)


@pytest.mark.parametrize("count", [3, 8])
def test_many_slots_reused_and_filled_at_any_frame_speak_as_upstream_does(count: int) -> None:
    arrivals = [(7 * at, ENDLESS[at * 5 % 6]) for at in range(count + 1)]
    for heard, (_, case) in zip(Subject(count).run(arrivals), arrivals, strict=True):
        assert_golden(heard, case)
