"""The Realtime model on all slots: texts are admitted, windows begin, outputs are read.

Not for two threads at once.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import torch

from engines.realtime.checkpoint import Sizes
from engines.realtime.presets import Presets
from engines.realtime.sequence import Text
from engines.realtime.slots import Slots
from engines.realtime.step import Said, Step
from engines.realtime.trial import warm_up
from engines.realtime.weights import RealtimeWeights
from engines.vibevoice.fast.capacity import GRAPHS
from engines.vibevoice.fast.graph_shape import TEXT_STEP, GraphShape
from engines.vibevoice.fast.graphs import Graphs
from engines.vibevoice.fast.launcher import Launcher
from engines.vibevoice.fast.sequence import InFlight, Sequence, StepOutput
from engines.vibevoice.fast.slots import IDLE
from request.errors import EngineError


class NoLease:
    """Voices stay on the device, so nothing has to be held for a speech."""

    def release(self) -> None:
        pass


class Batch(Launcher[Slots]):
    """A batch of `slots` texts with room for `capacity` positions each.

    `put_offs`: how often an end that the model says before the end of a text is put off.
    `ends_put_off` counts them. See `fast.batch.Batch` for `reserve` and `graphs_off`.
    """

    def __init__(
        self,
        weights: RealtimeWeights,
        sizes: Sizes,
        presets: Presets,
        *,
        slots: int,
        capacity: int,
        put_offs: int = 1,
        reserve: int = GRAPHS,
        flash: bool = False,
        graphs_off: str | None = None,
    ) -> None:
        self._weights, self._presets, self._put_offs = weights, presets, put_offs
        self.ends_put_off = 0
        with torch.inference_mode():
            self.step = Step(weights, capacity, flash=flash)
            state = Slots(sizes, slots, capacity, self.step.decoder, weights.device, weights.dtype)
        super().__init__(Graphs(self.step, state, reserve, graphs_off), state)

    def warm_up(self) -> None:
        """On a GPU: a trial, and the most used graph shapes. See `trial.warm_up`."""
        if self._on_cuda:
            warm_up(self)

    def lease(self) -> NoLease:
        return NoLease()

    @torch.inference_mode()
    def admit(self, text: Sequence, _lease: NoLease) -> None:
        """Fills a text's slot with its voice, or with what it had before it was suspended.

        Raises `EngineError` where it does not fit.
        """
        sequence = cast(Text, text)
        if sequence.suspended is not None:
            self.state.restore(sequence.slot, sequence.suspended, *sequence.positions)
            sequence.suspended = None
            return
        preset = self._presets.get(sequence.turn.voice)
        sequence.place(preset.text.shape[1], preset.speech.shape[1])
        if sequence.limit < 1:
            raise EngineError(
                f"the text has {sequence.feed.count} tokens, and this worker has room for"
                f" {sequence.room} with frames: use shorter chunks (MAX_CHUNK_CHARS)"
            )
        self.state.admit(
            sequence.slot,
            preset,
            steps=sequence.steps,
            guidance=sequence.guidance,
            put_offs=self._put_offs,
        )

    def suspend(self, sequence: Sequence) -> None:
        """Takes a text that waits for more out of its slot; `admit` goes on where it was."""
        text = cast(Text, sequence)
        text.suspended = self.state.save(text.slot, *text.positions)
        self.release(text)

    def launch(self, shape: GraphShape, sequences: Mapping[int, Sequence]) -> InFlight:
        for slot, sequence in sequences.items():
            window = cast(Text, sequence).begin_window(self._weights.architecture.latent)
            if window is not None:
                ids, noise = window.ids, window.noise.to(self._weights.dtype)
                if self._on_cuda:
                    ids, noise = ids.pin_memory(), noise.pin_memory()
                self.state.open_window(slot, ids, window.count, noise, window.is_last)
        if shape.steps == TEXT_STEP:
            exact = any(each.repeatable for each in sequences.values())
            self.graphs.run(shape, exact=exact)
            return InFlight({}, self.state.chosen, self.state.audio, None)
        return super().launch(shape, sequences)

    def outputs(self, step: InFlight) -> Iterable[StepOutput]:
        for slot, sequence in step.sequences.items():
            said = int(step.chosen[slot])
            if said == IDLE:
                continue
            self.ends_put_off += said == Said.PUT_OFF
            ends = said in (Said.END, Said.CUT)
            yield StepOutput(sequence, ends, step.samples(slot), early=said == Said.CUT)
