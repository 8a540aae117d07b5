"""A request as it would be read: planned like any other, and not spoken."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from job import Job
from speech.chunks import Chunk, spoken
from speech.voices import Voice


class DryRun(Job):
    """Needs no engine and reaches for no address: a `voice_url` is taken to hold a voice."""

    def answer(self) -> dict[str, Any]:
        """What a caller gets, as JSON. To be asked once it is planned."""
        text, voices = self._text, self._plan.voices
        names = [voice.name for voice in voices]
        return {
            "status": "success",
            "dry_run": True,
            "lead_ms": text.lead_ms,
            "expected_sec": round(self.expected_sec(), 2),
            "chunks": [self._chunk(index, chunk, names) for index, chunk in enumerate(text.chunks)],
            "speakers": {str(n): name for n, name in zip(text.speakers, names, strict=False)},
            "warnings": list(self.warnings),
        }

    def _chunk(self, index: int, chunk: Chunk, names: list[str]) -> Mapping[str, Any]:
        numbers = self._text.speakers or (1,)
        return {
            "index": index,
            "text_start": chunk.text_start,
            "text_end": chunk.text_end,
            "pause_ms": chunk.pause_ms,
            "expected_sec": round(self.expected_chunk_sec(index), 2),
            "turns": [
                {"speaker": numbers[t.speaker], "voice": names[t.speaker], "text": t.text}
                for t in spoken(chunk.turns)
            ],
        }

    def _guest(self, folder: Path) -> tuple[Voice, list[str]]:
        if self.request.voice_url:
            return Voice("voice_url"), []
        return super()._guest(folder)
