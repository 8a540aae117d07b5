"""What this start asks for, as bootstrap.sh has read it from the environment."""

import hashlib
import os
import re
from collections.abc import MutableMapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Part:
    """The environment or the code. `proof` is a file without which its folder is not whole."""

    kind: str
    definition: bytes
    proof: str

    @property
    def name(self) -> str:
        return f"{self.kind}-{_digest(self.definition)}"

    def find(self, *places: Path) -> Path | None:
        """The first of the folders that holds it whole: its manifest is there, which is written
        last, and its definition is, to the letter, this one."""
        return next((place / self.name for place in places if self._is_whole(place)), None)

    def _is_whole(self, place: Path) -> bool:
        folder, definition = place / self.name, place / self.name / ".definition"
        needed = (folder / ".manifest.json", folder / self.proof, definition)
        return all(map(Path.exists, needed)) and definition.read_bytes() == self.definition

    def keep_definition(self, folder: Path) -> None:
        (folder / ".definition").write_bytes(self.definition)


@dataclass(frozen=True, slots=True)
class Wanted:
    """bootstrap.sh's variables of these names, in its words. Empty is no.

    `volume` and `disk`: the volume's folder and the container disk's; they are one where
    `unattached`. `cached`: the model's folder in the platform's cache. `door`: the program that
    becomes the worker. `address`: the repository without its login. `warm`: nothing is missing.
    `prefetch`: the volume alone is filled, and nothing is started.
    """

    volume: Path
    disk: Path
    unattached: str
    cached: str
    warm: str
    prefetch: str
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
        """Takes them out of the environment: the worker has no use for them."""
        given = {each.name: environment.pop(f"PROVISION_{each.name.upper()}") for each in fields(cls)}
        paths = {each.name: Path(given[each.name]) for each in fields(cls) if each.type is Path}
        return cls(**(given | paths))  # type: ignore[arg-type]

    @property
    def requirements(self) -> bytes:
        return self.requirements_file.read_bytes().partition(b"\0")[0]  # as far as bash reads it

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
    def flash_address(self) -> str:
        """For the log: without login and signature."""
        return re.sub(r"^([^/]*//)[^/]*@|[?#].*", r"\1", self.flash_wheel)

    @property
    def flag(self) -> str:
        """The name of the flag for these settings; other settings have another on the volume."""
        names = f"{self.venv.name} {self.code.name} {self.model_wanted}"
        return f".first_run_complete-{_digest(os.fsencode(names))}"

    def hub_folders(self, base: Path) -> dict[str, str]:
        return {
            "HF_HOME": self.hub_home or str(base / "hf_home"),
            "HF_HUB_CACHE": self.hub_cache or str(base / "hf_cache"),
        }

    def find_venv(self) -> Path | None:
        return self.venv.find(self.disk, self.volume)

    def find_code(self) -> Path | None:
        """The user's own counts as it is."""
        own = os.environ.get("VIBEVOICE_CODE")
        return Path(own) if own else self.code.find(self.disk, self.volume)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:12]
