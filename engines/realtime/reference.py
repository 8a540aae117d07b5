"""The reference runtime of a Realtime model: upstream's own `generate`, one turn at a time.

Its class is in a clone of upstream's code (VIBEVOICE_CODE), not in the package. It ends a text as
soon as its classifier says so, whatever is unread.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from engines.base import Options, PlannedChunk, Reason, Samples, Voice
from engines.realtime.presets import PARTS, load_tensors
from engines.realtime.text import has_words, merged, read_as
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.code import Upstream
from engines.vibevoice.failures import loaded, meaning
from engines.vibevoice.fast.layers.noise import noise_seed
from engines.vibevoice.loader import check_room, dtype_for
from engines.vibevoice.model import FrameStreamer
from engines.vibevoice.prompt import encode
from engines.vibevoice.reference import Reference
from request.errors import EngineError

_MODULE = "vibevoice.modular.modeling_vibevoice_streaming_inference"


class _Streamer(FrameStreamer):
    """Takes up to `most` frames, and none behind the end, which upstream makes up to its window."""

    def __init__(self, emit: Callable[[Samples], None], most: int) -> None:
        super().__init__(emit)
        self.ended, self._most = False, most

    def put(self, audio: torch.Tensor, rows: torch.Tensor) -> None:
        if not self.ended and self.count < self._most:
            super().put(audio, rows)

    def end(self, rows: torch.Tensor | None = None) -> None:
        """With rows: the classifier has ended them. Without: `generate` returns."""
        self.ended = self.ended or rows is not None


class Model:
    """Upstream's model with its voices: see `vibevoice.model.Model`."""

    def __init__(self, network: Any, tokenizer: Any, checkpoint: Checkpoint, presets: Path) -> None:
        self.network, self.tokenizer, self.checkpoint = network, tokenizer, checkpoint
        self._presets = presets

    @property
    def details(self) -> dict[str, str]:
        device = self.network.device
        return {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "dtype": str(self.network.dtype).removeprefix("torch."),
        }

    def prepare(self, voices: Sequence[Voice]) -> Sequence[Voice]:
        return voices

    def speak(
        self,
        chunk: PlannedChunk,
        voices: Any,
        options: Options,
        emit: Callable[[Samples], None],
        stopped: Callable[[], bool],
    ) -> Reason:
        """Generates a chunk, calls `emit` with each frame, and gives the reason of its end."""
        reasons: list[Reason] = []
        torch.manual_seed(chunk.seed if chunk.attempt == 1 else noise_seed(chunk))
        for turn in merged(chunk.turns):
            if has_words(turn.text):
                name = voices[turn.speaker].name
                reasons.append(self._turn(turn.text, name, options, emit, stopped))
        worse = [reason for reason in reasons if reason != "eos"]
        return worse[0] if worse else "eos" if reasons else "empty"

    def _turn(
        self,
        text: str,
        voice: str,
        options: Options,
        emit: Callable[[Samples], None],
        stopped: Callable[[], bool],
    ) -> Reason:
        network, device = self.network, self.network.device
        ids = encode(self.tokenizer, read_as(text))
        prompt = self._prompt(voice)
        sizes = {part: prompt[part].last_hidden_state.shape[1] for part in PARTS}
        most = max(options.min_frames, round(options.frames_per_token * len(ids)))
        frames = _Streamer(emit, most)
        network.set_ddpm_inference_steps(options.steps)

        def full(count: int) -> torch.Tensor:
            return torch.ones(1, count, dtype=torch.long, device=device)

        try:
            network.generate(
                input_ids=full(sizes["lm"]),
                attention_mask=full(sizes["lm"]),
                tts_lm_input_ids=full(sizes["tts_lm"]),
                tts_lm_attention_mask=full(sizes["tts_lm"]),
                tts_text_ids=torch.tensor([ids], device=device),
                tokenizer=self.tokenizer,
                cfg_scale=options.cfg_scale,
                generation_config={"do_sample": False},
                all_prefilled_outputs=prompt,
                audio_streamer=frames,
                stop_check_fn=lambda: stopped() or frames.count >= most,
                return_speech=False,
                show_progress_bar=False,
            )
        except RuntimeError as error:
            raise meaning(error) or error from None
        if frames.ended:
            unread = 5 * -(-frames.count // 6) < len(ids)
            return "early" if unread else "eos"
        return "cap"

    def _prompt(self, voice: str) -> dict[str, Any]:
        """A voice as upstream's pickles hold it. A fresh one: `generate` appends to it."""
        caches = importlib.import_module("transformers.cache_utils")
        outputs = importlib.import_module("transformers.modeling_outputs")
        tensors, found = load_tensors(self._presets, voice), {}
        for part in PARTS:
            pairs = tensors[f"{part}.cache"].to(self.network.device, self.network.dtype)
            last = tensors[f"{part}.hidden"].to(pairs)
            cache = caches.DynamicCache()
            for layer, pair in enumerate(pairs):
                keys, values = pair.permute(1, 2, 0, 3)[:, None]
                cache.update(keys, values, layer)
            hidden = last.expand(1, pairs.shape[1], -1)
            found[part] = outputs.BaseModelOutputWithPast(
                last_hidden_state=hidden, past_key_values=cache
            )
        return found


def load_reference(
    upstream: Upstream,
    checkpoint: Checkpoint,
    tokenizer_folder: str,
    device: torch.device,
    presets: Path,
) -> Reference:
    """Loads the checkpoint by upstream's class. Raises `EngineError` where there is none."""
    try:
        kind = importlib.import_module(_MODULE).VibeVoiceStreamingForConditionalGenerationInference
    except ImportError:
        raise EngineError(
            "the installed code of VibeVoice cannot run VibeVoice-Realtime: set VIBEVOICE_CODE to a"
            " clone, or VIBEVOICE_RUNTIME=fast"
        ) from None
    check_room(checkpoint, device)
    tokenizer = upstream.Tokenizer.from_pretrained(tokenizer_folder, local_files_only=True)

    def load() -> Any:
        return kind.from_pretrained(
            checkpoint.folder,
            torch_dtype=dtype_for(device),
            attn_implementation="sdpa",
            device_map=str(device),
            local_files_only=True,
        ).eval()

    return Reference(Model(loaded(load), tokenizer, checkpoint, presets))
