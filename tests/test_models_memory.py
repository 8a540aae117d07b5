"""Real models come and go within a memory limit, measured by the process's memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_speech import KOKORO, PIPER, require_packages

ROOT = Path(__file__).resolve().parent.parent

_PROGRAM = """
import asyncio, sys, time
from pathlib import Path
from config import Settings
from engines.memory import used_memory
from request.model import parse_request
from synthesis.inference import VibeVoiceInference

volume, limit_mb = Path(sys.argv[1]), int(sys.argv[2])
inference = VibeVoiceInference(Settings.from_env({
    "VIBEVOICE_VOLUME": str(volume), "ENGINE": "espeak", "MODELS": "piper,kokoro",
    "MODEL_MIN_RESIDENCY_SEC": "0", "CPU_THREADS": "1",
    **({"MODEL_RESIDENT_CAP": "2"} if not limit_mb else {"MEMORY_LIMIT_MB": str(limit_mb)}),
}))

async def speak(model):
    fields = {"text": "Good morning to you all.", "model": model, "output_format": "wav"}
    request, _ = parse_request(fields, inference.defaults)
    async with inference.plan(request) as planned:
        with inference.workspace() as folder:
            return (await inference.generate(planned, Path(folder))).result

manager = inference.models.manager
for model in sys.argv[3].split(","):
    result = asyncio.run(speak(model))
    resident = [name for name in manager.names if manager.usage(name).resident]
    size = manager.usage(model).size.host / 2**20
    used = used_memory().host / 2**20
    print(result.engine, "+".join(resident), round(used), round(size), flush=True)
inference.close()
"""


def spoken(volume: Path, limit_mb: int, *models: str) -> list[list[str]]:
    """For each answer the engine, the resident models, the process's memory and the model's size
    in MiB."""
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(volume), str(limit_mb), ",".join(models)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return [line.split() for line in run.stdout.splitlines()]


@pytest.mark.models
def test_what_makes_room_gives_its_memory_back(tmp_path: Path) -> None:
    require_packages(*KOKORO, *PIPER)
    turns = ["piper", "kokoro"] * 3
    lines = spoken(tmp_path, 0, "espeak", *turns)
    assert [line[0] for line in lines] == ["espeak", *turns]
    assert [line[1] for line in lines] == ["espeak", *(f"espeak+{name}" for name in turns)]
    memory = [int(line[2]) for line in lines]
    assert memory[4] < memory[2] * 1.15, lines  # a second kokoro is no more than the first
    assert memory[6] < memory[2] * 1.15, lines
    assert memory[5] < memory[2] - int(lines[2][3]) / 3, lines  # and piper's turn gave it back


@pytest.mark.models
def test_models_take_turns_within_a_limit_that_holds_two(tmp_path: Path) -> None:
    require_packages(*KOKORO, *PIPER)
    limit_mb = 420  # espeak with piper takes 300 MiB, with kokoro 390
    turns = ["espeak", "piper", "kokoro", "piper", "espeak", "kokoro"]
    lines = spoken(tmp_path, limit_mb, *turns)
    assert [line[0] for line in lines] == turns
    assert all(int(line[2]) <= limit_mb for line in lines), lines
    assert {line[1] for line in lines} == {"espeak", "espeak+piper", "espeak+kokoro"}, lines
