"""A request as a file: every chunk is made before anything is levelled, joined and encoded."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from audio.chunk_audio import Join, KeptChunkAudio
from audio.codecs import FORMATS, Encoder, bytes_a_second
from audio.loudness import Level, LoudnessMeter, gain_to
from audio.pcm import silence
from engines.base import Plan
from synthesis.job import Job, Result

_LOUDNESS_MISS_DB = 1.0
"""A larger miss is said: high peaks keep quiet speech from being raised any further."""

Foresee = Callable[[int], None]
"""What the caller has to know, before any synthesis, of a file of about that many bytes."""
Reaches = Callable[[Path, str, Callable[[], bool]], bool]
"""Whether a file of this content type gets to its caller: `delivery.answer.Delivery.reaches`."""


class FileJob(Job):
    """Every chunk is made, and repeated where it came out badly, before anything is joined."""

    def run(self, folder: Path, reaches: Reaches | None = None) -> tuple[Path, Result]:
        """Makes the file. One that would not reach its caller becomes Opus if the request allows
        that."""
        text, plan = self.prepare()
        with tempfile.TemporaryFile(dir=folder) as spool:
            recorded = self.quality.record(
                plan, lambda: KeptChunkAudio(spool, self.rate, self.request.speed)
            )
            self.mark("spoken")
            join = Join.of([each.take for each in recorded], self.pauses(text))
            gain_db = self._gain(plan, join.takes)
            path = self._encode(join, gain_db, folder)
            self.mark("encoded")
            if reaches and self._may_shrink():
                content_type = FORMATS[self.format].content_type
                if not reaches(path, content_type, self.quality.is_cancelled):
                    path = self._shrunk(path, join, gain_db, folder)
        return path, self.result(text, plan, recorded, join.starts, join.count, gain_db)

    def expected_bytes(self) -> int:
        """How large the file should be, in the smallest format that it may take."""
        form = "opus" if self._may_shrink() else self.format
        return round(self.expected_sec() * bytes_a_second(form, self.rate))

    def _may_shrink(self) -> bool:
        return (
            self.request.allow_recompress
            and self.format != "opus"
            and self.rate in FORMATS["opus"].rates
        )

    def _shrunk(self, path: Path, join: Join, gain_db: float | None, folder: Path) -> Path:
        start = time.monotonic()
        large = path.stat().st_size / 1e6
        self.warnings.append(
            f"output_format: {self.format} would have had {large:.1f} MB, so it is opus"
        )
        self.format = "opus"
        path.unlink()
        path = self._encode(join, gain_db, folder)
        self.extend("encoded", time.monotonic() - start)
        return path

    def _gain(self, plan: Plan, takes: Sequence[KeptChunkAudio]) -> float | None:
        if self.request.loudness is None:
            return None
        meter = LoudnessMeter(self.rate)
        for take in takes:
            self.quality.check()
            meter.add(np.concatenate([silence(0), *take.read()]))
        measured = meter.integrated()
        self.remember_loudness(plan, measured)
        if measured is None and takes:
            self.warnings.append("loudness: could not be measured, so the level is left as is")
            return None
        return gain_to(self.request.loudness, measured)

    def _encode(self, join: Join, gain_db: float | None, folder: Path) -> Path:
        entry = FORMATS[self.format]
        level = Level(self.rate, gain_db)
        encoder = Encoder(entry.name, self.rate, join.count)
        path = folder / f"speech.{entry.extension}"
        heard = LoudnessMeter(self.rate)
        with path.open("wb") as file:
            for block in join.read():
                self.quality.check()
                levelled = level.feed(block)
                heard.add(levelled)
                file.write(encoder.encode(levelled))
            file.write(encoder.encode(level.flush()))
            file.write(encoder.close())
        reached, wanted = heard.integrated(), self.request.loudness
        missed = 0.0 if gain_db is None else abs((reached or 0.0) - (wanted or 0.0))
        if reached is not None and missed > _LOUDNESS_MISS_DB:
            self.warnings.append(f"loudness: {reached:.1f} LUFS were reached")
        return path
