"""The Realtime engine: VibeVoice's, with another model and voices of its own."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.base import Capabilities, Plan, Speech
from engines.realtime.presets import list_presets
from engines.vibevoice.checkpoint import Checkpoint
from engines.vibevoice.code import Upstream
from engines.vibevoice.engine import Runtime, VibeVoiceEngine
from request.errors import VoiceError

if TYPE_CHECKING:
    import torch

SOLVER_STEPS, GUIDANCE = 5, 1.5
"""What upstream's demos use, where the caller gave nothing."""

_FOLDER = "presets"


class RealtimeEngine(VibeVoiceEngine):
    """VibeVoice-Realtime, loaded at the first `load` or `start`.

    `presets` is the folder of its voices, by default `presets/` in the model's folder, else in the
    volume. `put_offs`: see `Batch`. The other arguments are `VibeVoiceEngine`'s.
    """

    name = "realtime"
    setting = "REALTIME_MODEL_PATH"

    def __init__(
        self, model: str, *, presets: Path | None = None, put_offs: int = 1, **options: Any
    ) -> None:
        super().__init__(model, **options)
        beside = Path(model) / _FOLDER
        own = beside if beside.is_dir() else (self._volume or Path()) / _FOLDER
        self._presets = presets or own
        self._put_offs = put_offs

    @property
    def capabilities(self) -> Capabilities:
        return replace(
            super().capabilities,
            cloning=False,
            refuses_recordings=True,
            voices=tuple(list_presets(self._presets)),
            languages=("en",),
            streaming_text=self._runtime_name == "fast",
        )

    @staticmethod
    def _inspect(folder: Path) -> Checkpoint:
        from engines.realtime.checkpoint import inspect

        return inspect(folder)

    def _load_fast(
        self, upstream: Upstream, checkpoint: Checkpoint, tokenizer: str, device: "torch.device"
    ) -> Runtime:
        from engines.realtime.runtime import load_fast

        return load_fast(
            upstream, checkpoint, tokenizer, device, self._choices, self._presets, self._put_offs
        )

    def _load_reference(
        self, upstream: Upstream, checkpoint: Checkpoint, tokenizer: str, device: "torch.device"
    ) -> Runtime:
        from engines.realtime.reference import load_reference

        return load_reference(upstream, checkpoint, tokenizer, device, self._presets)

    def start(self, plan: Plan) -> Speech:
        self._check_voices(plan)
        return super().start(_with_defaults(plan))

    def _check_voices(self, plan: Plan) -> None:
        """Raises `VoiceError` for a voice that is none of the presets."""
        known = list_presets(self._presets)
        for voice in plan.voices:
            if voice.name in known:
                continue
            if voice.samples is not None:
                raise VoiceError(
                    f"{voice.name!r} is a recording, and VibeVoice-Realtime cannot clone: its model"
                    " comes without the encoder of recordings, against impersonation",
                    "speaker_name",
                    allowed=f"{_listed(known)}; or a model that clones, such as `vibevoice`",
                )
            raise VoiceError(
                f"VibeVoice-Realtime has no voice {voice.name!r}",
                "speaker_name",
                code="voice_not_found",
                allowed=_listed(known),
            )


def _listed(known: Any) -> str:
    if not known:
        return "none: fill the presets by `python -m tools.presets convert`"
    return ", ".join(known)


def _with_defaults(plan: Plan) -> Plan:
    """The plan with upstream's steps and guidance, where its caller gave none."""
    options = plan.options
    if options.steps_is_default:
        options = replace(options, steps=SOLVER_STEPS)
    if options.cfg_is_default:
        options = replace(options, cfg_scale=GUIDANCE)
    return replace(plan, options=options)
