"""The model on all slots: sequences are admitted, and the outputs of their steps are read.

Not for two threads at once.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.failures import free_device_memory
from engines.vibevoice.fast.capacity import GRAPHS
from engines.vibevoice.fast.graph_shape import FIXED_CONTEXT, GraphShape
from engines.vibevoice.fast.graphs import Graphs
from engines.vibevoice.fast.launcher import Launcher
from engines.vibevoice.fast.layers.codec import Codec
from engines.vibevoice.fast.layers.kv_cache import KVCache
from engines.vibevoice.fast.layers.noise import Noise
from engines.vibevoice.fast.layers.weights import Weights
from engines.vibevoice.fast.sequence import (
    InFlight,
    Normaliser,
    Preprocessor,
    Sequence,
    StepOutput,
)
from engines.vibevoice.fast.slots import IDLE, Slots
from engines.vibevoice.fast.step import Step, Tokens, connect
from engines.vibevoice.fast.trial import make_trial
from engines.vibevoice.fast.voice_cache import Lease, Recording, VoiceCache
from engines.vibevoice.prompt import Prompt, Tokenizer
from request.errors import EngineError

_USUAL_STEPS = 10
_USUAL_CONTEXTS = (512, 1024, 2048)


class Batch(Launcher[Slots]):
    """A batch of `slots` chunks with room for `capacity` tokens each.

    `capacity` grows up to `longest` where a chunk needs more. `cache_bytes` bounds the voice cache.
    `reserve` is the device memory in bytes that captures of CUDA graphs leave free. `graphs_off` is
    the reason why there are no graphs, or None.
    """

    def __init__(
        self,
        weights: Weights,
        tokenizer: Tokenizer,
        normaliser: Normaliser,
        checkpoint: Checkpoint,
        *,
        slots: int,
        cache_bytes: int,
        capacity: int = FIXED_CONTEXT,
        longest: int | None = None,
        reserve: int = GRAPHS,
        flash: bool = False,
        graphs_off: str | None = None,
    ) -> None:
        self._weights = weights
        self.preprocessor = Preprocessor(tokenizer, normaliser, checkpoint, longest)
        self.tokens = Tokens.of(tokenizer)
        sizes = weights.architecture
        with torch.inference_mode():
            self.step = Step(weights, self.tokens, capacity, flash=flash)
            self.state = Slots(
                sizes,
                slots,
                capacity,
                len(self.tokens.choices),
                (self.step.decoder, self.step.encoder),
                weights.device,
                weights.dtype,
            )
        self.voices = VoiceCache(weights, cache_bytes)
        super().__init__(Graphs(self.step, self.state, reserve, graphs_off), self.state)

    @property
    def codecs(self) -> dict[str, Codec]:
        return {
            "decoder": self.step.decoder,
            "encoder": self.step.encoder,
            "listener": self.voices.listener,
        }

    def lease(self) -> Lease:
        """A lease on the voice cache for one speech; release it when the speech ends."""
        return self.voices.lease()

    def warm_up(self) -> None:
        """On a GPU: runs a few steps of all slots, and captures the most used graph shapes.
        The others are captured while the loop is idle. Raises `EngineError`, or the device's
        `RuntimeError`."""
        if not self._on_cuda:
            return
        make_trial(self)
        sizes = {min(1 << power, self.slots) for power in range(self.slots.bit_length() + 1)}
        for slots in sorted(sizes):
            self.graphs.want(*(GraphShape(slots, each, _USUAL_STEPS) for each in _USUAL_CONTEXTS))
        # This shape can run the steps of all other shapes.
        self.graphs.want(GraphShape(self.slots, self.state.capacity, _USUAL_STEPS))
        for _ in range(2):
            self.graphs.prepare()

    # Into a slot

    @torch.inference_mode()
    def admit(self, sequence: Sequence, lease: Lease) -> None:
        """Prefill: runs the prompt of a sequence's part and fills its slot.

        Raises `EngineError` where there is not enough memory for its length.
        """
        part, chunk, row = sequence.part, sequence.chunk, 2 * sequence.slot
        self._make_room(part.context)
        sizes, prompt = self._weights.architecture, part.prompt
        voices = list(sequence.voices.values())
        noise = Noise(chunk, self._weights.device, with_voices=bool(voices))
        longest = max((voice.frames for voice in voices), default=0)
        around = None
        if voices:
            around = noise.voices(
                (len(voices), longest, sizes.latent),
                self._weights.dtype,
                sizes.voice_std,
                sizes.voice_noise,
            )
        shared = prompt.ids[: prompt.shared]
        ids, places = self._on_device(prompt)
        key = ("prefix", shared, *(voice.key for voice in voices), *((chunk.seed,) * bool(voices)))

        def read_prefix() -> Tensor:
            x = self._weights.embedding[ids[: prompt.shared]]
            if around is not None:
                x.index_copy_(0, places, self._connected(lease, voices, around))
            self.step.language.prefill(x, 0, self.state.cache, row)
            return self.state.cache.prefix(row, len(shared))

        self.state.cache.put(row, lease.hold(key, read_prefix))
        rest = self._weights.embedding[ids[prompt.shared :]]
        self.step.language.prefill(rest[:-1], len(shared), self.state.cache, row)
        # The host draws the noise while the device runs the prefill.
        drawn = noise.frames(part.limit, sizes.latent).to(self._weights.dtype)
        self.state.admit(
            sequence.slot,
            start=rest[-1],
            length=part.tokens,
            limit=part.limit,
            steps=sequence.steps,
            guidance=sequence.guidance,
            noise=drawn.pin_memory() if self._on_cuda else drawn,
        )

    def _on_device(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """A prompt's ids and the places of its voices' frames, (ids,) each, on the device.

        One asynchronous copy, because a synchronous one would wait for the step in flight.
        """
        places = [place for place, is_voice in enumerate(prompt.is_voice) if is_voice]
        both = torch.tensor([*prompt.ids, *places])
        if self._on_cuda:
            both = both.pin_memory()
        both = both.to(self._weights.device, non_blocking=True)
        return both[: len(prompt.ids)], both[len(prompt.ids) :]

    def _connected(self, lease: Lease, voices: Iterable[Recording], around: Tensor) -> Tensor:
        """The voices' frames as the language model's inputs, (frames, hidden), concatenated."""
        weights = self._weights
        sampled = torch.cat(
            [
                lease.latents(voice) + noise[: voice.frames]
                for voice, noise in zip(voices, around, strict=True)
            ]
        )
        return connect(weights.acoustic, (sampled + weights.bias) * weights.scale)

    def _make_room(self, context: int) -> None:
        """Grows the slots to `context` tokens. Raises `EngineError` where memory is too short."""
        capacity = self.state.capacity
        if context <= capacity:
            return
        needed = KVCache.size(self._weights.architecture, 2 * self.slots, context) * (
            self._weights.dtype.itemsize
        )
        if self._on_cuda and needed > free_device_memory(self._weights.device):
            raise EngineError(
                f"the text and the voices need a context of {context} tokens and this worker has"
                f" memory for {capacity}: use shorter chunks (MAX_CHUNK_CHARS), shorter voice"
                " recordings or fewer MAX_SLOTS"
            )
        self.graphs.clear()
        # The slots grow last, because the step must support the capacity that they report.
        self.step.grow(context)
        self.state.grow(context)

    def release(self, sequence: Sequence, *, wipe: bool = False) -> None:
        self.state.release(sequence.slot, wipe=wipe)

    # Out of the slots

    def outputs(self, step: InFlight) -> Iterable[StepOutput]:
        choices = self.tokens.choices
        for slot, sequence in step.sequences.items():
            choice = int(step.chosen[slot])
            if choice == IDLE:
                continue
            token = choices[choice]
            samples = step.samples(slot) if token == self.tokens.diffusion else None
            yield StepOutput(sequence, token == self.tokens.eos, samples)
