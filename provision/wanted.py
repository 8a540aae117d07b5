"""The settings of this start, as bootstrap.sh has read them from the environment."""

import os
import re
from collections.abc import MutableMapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from provision.parts import Part, digest


@dataclass(frozen=True, slots=True)
class Wanted:
    """bootstrap.sh's variables of these names. An empty value means no.

    `volume` and `disk`: the volume's folder and the container disk's; they are one where
    `unattached`. `cached`: the model's folder in the platform's cache. `warm`: nothing is missing.
    `prefetch`: the volume alone is filled, and nothing is started. `repair`: the same, and every
    file is compared by its hash before. `door`: the program that becomes
    the worker. `address`: the repository without its login. `venv_head`: the environment's
    definition without the requirements.
    """

    volume: Path
    disk: Path
    unattached: str
    cached: str
    warm: str
    prefetch: str
    repair: str
    worker: str
    door: str
    python: str
    requirements_file: Path
    flash_wheel: str
    repository: str
    address: str
    ref: str
    venv_head: str
    code_wanted: str
    model_wanted: str
    hub_home: str
    hub_cache: str

    @classmethod
    def take_from(cls, environment: MutableMapping[str, str]) -> Self:
        """Reads the variables, and removes them from the environment, which the worker inherits."""
        given: dict[str, Any] = {each.name: environment.pop(each.name) for each in fields(cls)}
        paths = {name: Path(given[name]) for name in ("volume", "disk", "requirements_file")}
        return cls(**given | paths)

    @property
    def requirements(self) -> bytes:
        return self.requirements_file.read_bytes().partition(b"\0")[0]  # bash stops at a NUL byte

    @property
    def is_cuda(self) -> bool:
        return b"nvidia-cublas-cu12" in self.requirements

    @property
    def venv(self) -> Part:
        return Part("venv", os.fsencode(self.venv_head) + self.requirements, "bin/python")

    @property
    def code(self) -> Part:
        proof = "vibevoice/modular/modeling_vibevoice_inference.py"
        return Part("vibevoice", os.fsencode(self.code_wanted), proof)

    @property
    def flag(self) -> str:
        """The name of the flag for these settings; other settings have another on the volume."""
        names = f"{self.venv.name} {self.code.name} {self.model_wanted}"
        return f".first_run_complete-{digest(os.fsencode(names))}"

    def find_venv(self) -> Path | None:
        return self.venv.find(self.disk, self.volume)

    def find_code(self) -> Path | None:
        """The folder of VibeVoice's code, or None. A user's own clone is accepted unchecked."""
        own = os.environ.get("VIBEVOICE_CODE")
        return Path(own) if own else self.code.find(self.disk, self.volume)

    def flash_address(self) -> str:
        """The address of flash-attn without login and signature, for the log."""
        return re.sub(r"^([^/]*//)[^/]*@|[?#].*", r"\1", self.flash_wheel)

    def hub_folders(self, base: Path) -> dict[str, str]:
        return {
            "HF_HOME": self.hub_home or str(base / "hf_home"),
            "HF_HUB_CACHE": self.hub_cache or str(base / "hf_cache"),
        }
