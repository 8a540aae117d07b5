"""A request as it would be read: planned like any other, and not spoken."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from synthesis.job import Job
from text.chunks import Chunk, spoken
from voices.catalogue import Voice


class DryRunTurn(BaseModel):
    """What reaches the engine. `speaker` is a script's own number, 1 where there is no script."""

    model_config = ConfigDict(frozen=True)

    speaker: int
    voice: str
    text: str


class DryRunChunk(BaseModel):
    """A span of the text (code points); `pause_ms` of silence follow."""

    model_config = ConfigDict(frozen=True)

    index: int
    text_start: int
    text_end: int
    pause_ms: int
    expected_sec: float
    turns: list[DryRunTurn]


class DryRunAnswer(BaseModel):
    """How a text would be read. `speakers` maps a script's numbers to voices."""

    model_config = ConfigDict(frozen=True)

    status: str = "success"
    dry_run: bool = True
    lead_ms: int
    expected_sec: float
    chunks: list[DryRunChunk]
    speakers: dict[str, str]
    warnings: list[str]


class DryRun(Job):
    """Needs no engine and reaches for no address: a `voice_url` is taken to hold a voice."""

    def answer(self) -> DryRunAnswer:
        """To be asked once it is planned."""
        text, names = self._text, [voice.name for voice in self._plan.voices]
        return DryRunAnswer(
            lead_ms=text.lead_ms,
            expected_sec=round(self.expected_sec(), 2),
            chunks=[self._chunk(index, chunk, names) for index, chunk in enumerate(text.chunks)],
            speakers={str(n): name for n, name in zip(text.speakers, names, strict=False)},
            warnings=self.warnings,
        )

    def _chunk(self, index: int, chunk: Chunk, names: list[str]) -> DryRunChunk:
        numbers = self._text.speakers or (1,)
        return DryRunChunk(
            index=index,
            text_start=chunk.text_start,
            text_end=chunk.text_end,
            pause_ms=chunk.pause_ms,
            expected_sec=round(self.expected_chunk_sec(index), 2),
            turns=[
                DryRunTurn(speaker=numbers[turn.speaker], voice=names[turn.speaker], text=turn.text)
                for turn in spoken(chunk.turns)
            ],
        )

    def _guest(self, folder: Path) -> tuple[Voice, list[str]]:
        if self.request.voice_url:
            return Voice("voice_url"), []
        return super()._guest(folder)
