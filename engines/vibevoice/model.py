"""Upstream's model on its device, and its own `generate` for one chunk at a time.

Not for two threads at once: upstream's noise scheduler has state, and upstream draws from torch's
global random generators. Every call seeds them, so a chunk's samples depend on its arguments alone.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engines.base import Options, PlannedChunk, Reason, Samples, Voice
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.failures import free_memory, meaning
from engines.vibevoice.fast.layers.noise import noise_seed
from engines.vibevoice.prompt import Prompt, build_prompt, frame_limit, guidance_for
from request.errors import EngineError, EngineLost
from text.chunks import spoken

_UNCUT = 1e6  # upstream also ends a text at this multiple of the prompt's length; its default is 2


@dataclass(frozen=True, slots=True, eq=False)
class Recordings:
    """The voices of a plan in upstream's format; empty without voices.

    `frames` has the number of frames by speaker, in order. The levelled waveforms are padded to one
    length, and a mask marks the frames that are no padding.
    """

    frames: Mapping[int, int]
    waves: torch.Tensor
    masks: torch.Tensor


class _Nothing:
    """A null object for absent voices. Upstream calls `to` on them before it checks for None."""

    def to(self, *_args: object, **_kwargs: object) -> None:
        return None


class Model:
    """A loaded model. `network` is upstream's own."""

    def __init__(
        self, network: Any, tokenizer: Any, checkpoint: Checkpoint, normaliser: Any
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        self._normaliser = normaliser
        self._can_skip_voices = "is_prefill" in inspect.signature(network.generate).parameters

    @property
    def details(self) -> dict[str, str]:
        device = self.network.device
        return {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "attention": self.network.model.language_model.config._attn_implementation,
        }

    def prepare(self, voices: Sequence[Voice]) -> Recordings:
        """The voices of a plan, as `speak` takes them."""
        return self.record([voice.samples for voice in voices])

    def record(self, voices: Sequence[Samples | None]) -> Recordings:
        """Levels the voices' samples as upstream does; None for a speaker without a voice."""
        waves = {
            speaker: np.asarray(
                self._normaliser(samples) if self.checkpoint.normalise else samples, np.float32
            )
            for speaker, samples in enumerate(voices)
            if samples is not None and len(samples)
        }
        frames = {speaker: -(-len(wave) // self.checkpoint.hop) for speaker, wave in waves.items()}
        padded = np.zeros((len(waves), max(map(len, waves.values()), default=0)), np.float32)
        for row, wave in zip(padded, waves.values(), strict=True):
            row[: len(wave)] = wave
        counts = torch.tensor(list(frames.values()))[:, None]
        masks = torch.arange(max(frames.values(), default=0))[None] < counts
        return Recordings(frames, torch.from_numpy(padded), masks)

    def speak(
        self,
        chunk: PlannedChunk,
        recordings: Recordings,
        options: Options,
        emit: Callable[[Samples], None],
        stopped: Callable[[], bool],
    ) -> Reason:
        """Generates a chunk, calls `emit` with each frame, and gives the reason of its end.

        Once `stopped()` is true, it returns within a frame. Raises `EngineError`, after which the
        next call works again, or `EngineLost`.
        """
        turns = spoken(chunk.turns)
        if not turns:
            return "empty"
        prompt = build_prompt(self.tokenizer, turns, recordings.frames)
        limit = frame_limit(prompt, options, self.checkpoint.context)
        frames = FrameStreamer(emit)
        failure = None
        try:
            last = self._generate(chunk, prompt, limit, recordings, options, frames, stopped)
        except RuntimeError as error:
            failure = meaning(error)
            if failure is None:
                raise
        if failure is not None:  # only now does no traceback refer to the failed call's tensors
            if not isinstance(failure, EngineLost):
                free_memory()
            raise failure
        if not frames.count:
            return "empty"
        # Upstream's own flag for a reached limit stays False, so the last token decides.
        return "eos" if last == self.tokenizer.eos_token_id else "cap"

    def _generate(
        self,
        chunk: PlannedChunk,
        prompt: Prompt,
        limit: int,
        recordings: Recordings,
        options: Options,
        frames: "FrameStreamer",
        stopped: Callable[[], bool],
    ) -> int:
        """Runs upstream's `generate` and gives the last token."""
        network = self.network
        ids = torch.tensor([prompt.ids], device=network.device)
        network.set_ddpm_inference_steps(options.steps)
        with _Noise(network, chunk, bool(recordings.frames) and not options.disable_prefill) as n:
            output = network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                speech_input_mask=torch.tensor([prompt.is_voice]),
                **self._voices(recordings, n.with_voices),
                tokenizer=self.tokenizer,
                cfg_scale=guidance_for(chunk.turns, options, self.checkpoint.is_small),
                generation_config={"do_sample": False},
                max_new_tokens=limit,
                max_length_times=_UNCUT,
                audio_streamer=frames,
                stop_check_fn=stopped,
                return_speech=False,
                show_progress_bar=False,
            )
        return int(output.sequences[0, -1])

    def _voices(self, recordings: Recordings, used: bool) -> dict[str, Any]:
        if used:
            return {"speech_tensors": recordings.waves, "speech_masks": recordings.masks}
        if self._can_skip_voices:
            return {"is_prefill": False}
        return {"speech_tensors": _Nothing(), "speech_masks": _Nothing()}


class _Noise:
    """Seeds torch's generators for a chunk.

    Upstream draws the noise of the voices first. A further attempt draws the same noise for the
    voices as the first attempt, and then other noise for the frames.
    """

    def __init__(self, network: Any, chunk: PlannedChunk, with_voices: bool) -> None:
        self.with_voices = with_voices
        self._network = network
        self._chunk = chunk
        self._hook: Any = None

    def __enter__(self) -> "_Noise":
        if self._chunk.attempt == 1:
            torch.manual_seed(self._chunk.seed)
        elif self.with_voices:
            torch.manual_seed(self._chunk.seed)
            # The connector is first called for the voices, directly after their noise is drawn.
            connector = self._network.model.acoustic_connector
            self._hook = connector.register_forward_hook(self._reseed)
        else:
            torch.manual_seed(noise_seed(self._chunk))
        return self

    def _reseed(self, *_: object) -> None:
        torch.manual_seed(noise_seed(self._chunk))
        self._hook.remove()

    def __exit__(self, *_: object) -> None:
        if self._hook is not None:
            self._hook.remove()


class FrameStreamer:
    """Upstream's streamer protocol for a batch of one. Unlike its own streamers this has no
    `finished_flags`, which would end a batch with its first row."""

    def __init__(self, emit: Callable[[Samples], None]) -> None:
        self.count = 0
        self._emit = emit

    def put(self, audio: torch.Tensor, _rows: torch.Tensor) -> None:
        samples: Samples = audio.reshape(-1).to("cpu", torch.float32, copy=True).numpy()
        if not np.isfinite(samples).all():
            raise EngineError("the model made samples that are no numbers: its weights are damaged")
        self.count += 1
        self._emit(np.clip(samples, -1, 1))

    def end(self, _rows: torch.Tensor | None = None) -> None:
        """Does nothing: the return of `generate` says the same."""
