"""What a virtual environment holds: which packages, and which of their files are damaged.

    VENV/bin/python -m provision.installed VENV REQUIREMENTS [FLASH_ATTENTION_OUTCOME]

checks a new environment from inside it and writes its manifest. Every file in a package's RECORD
must exist in its size, no pinned package may be missing, and the large packages must be importable.
flash-attn is not imported, because that needs a GPU. The worker tries it before it uses it.
"""

import base64
import csv
import hashlib
import importlib
import importlib.util
import marshal
import platform
import re
import sys
from pathlib import Path

from provision.parts import read_manifest, size_of, write_manifest

IMPORTED = ("torch", "transformers", "diffusers", "accelerate", "runpod", "soundfile", "av")
OWN_FILES = ("pyvenv.cfg", "bin/python", ".definition")


def pinned(requirements: str) -> dict[str, str]:
    """The lines of a requirements file that name a package, by its normalised name."""
    found: dict[str, str] = {}
    for line in requirements.replace("\\\n", " ").splitlines():
        if named := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line):
            name = _normal(named[0])
            found[name] = f"{found.get(name, '')}{line}\n"
    return found


def packages(venv: Path) -> dict[str, Path]:
    """The `dist-info` folders of the installed packages, by normalised name."""
    found = sorted(venv.glob("lib/python3*/site-packages/*.dist-info"))
    return {_normal(info.stem.rpartition("-")[0]): info for info in found}


def _normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def damage(venv: Path, requirements: str, hashes: bool = False) -> dict[str, list[str]]:
    """The damaged files by package; of the environment's own files the name is "".

    Compares the sizes in each package's RECORD, and with `hashes` the hashes and the bytecode too.
    A package that the manifest or the requirements name and that is missing is damaged.
    """
    there = packages(venv)
    facts = read_manifest(venv / ".manifest.json")
    records = facts.get("records", {})
    found = {"": [name for name in OWN_FILES if not _size(venv / name)]}
    if not facts:
        found[""].append(".manifest.json")
    found |= {
        name: ["the whole package"] for name in {*records, *_required(requirements)} - {*there}
    }
    for name, info in there.items():
        if name in records and records[name] != _record_digest(info):
            found[name] = [f"{info.name}/RECORD"]
        else:
            found[name] = damaged_files(info, hashes)
    return {name: files for name, files in found.items() if files}


def _required(requirements: str) -> set[str]:
    """The names that are pinned on every machine: without an environment marker."""
    return {name for name, lines in pinned(requirements).items() if ";" not in lines}


def damaged_files(info: Path, hashes: bool = False) -> list[str]:
    """The files of a package that differ from its RECORD, as that names them."""
    # Not `Distribution.files`: from Python 3.12 on it leaves out the files that are missing.
    try:
        with (info / "RECORD").open(encoding="utf-8", newline="") as record:
            rows = [(path, digest, size) for path, digest, size in csv.reader(record)]
    except (OSError, ValueError, csv.Error):
        rows = []
    if not rows:
        return [f"{info.name}/RECORD"]
    site = info.parent
    return [path for path, *facts in rows if _is_damaged(site / path, facts[0], facts[1], hashes)]


def _is_damaged(file: Path, digest: str, size: str, hashes: bool) -> bool:
    if size and _size(file) != int(size):
        return True
    if not hashes:
        return False
    if file.suffix == ".pyc":
        return file.is_file() and not _is_bytecode(file.read_bytes())
    return bool(digest) and digest != _digest(file, digest.partition("=")[0])


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _is_bytecode(data: bytes) -> bool:
    """Whether Python could load a `.pyc`. What is shorter than its head Python compiles anew."""
    if len(data) < 16 or data[:4] != importlib.util.MAGIC_NUMBER:
        return True
    try:
        marshal.loads(data[16:])  # noqa: S302 - these files are about to be run
    except (EOFError, ValueError, TypeError):
        return False
    return True


def _digest(file: Path, kind: str) -> str:
    """As a RECORD has it."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, kind).digest()
    return f"{kind}={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _record_digest(info: Path) -> str:
    record = info / "RECORD"
    return _digest(record, "sha256") if record.is_file() else ""


def cannot_be_imported(name: str) -> str | None:
    """Imports a module. Gives the error as a sentence, or None where it succeeds."""
    try:
        importlib.import_module(name)
    except Exception as problem:  # noqa: BLE001 - an import may raise anything
        lines = str(problem).splitlines() or [""]
        return f"{name} cannot be imported ({type(problem).__name__}: {lines[0][:200]})"
    return None


def main() -> None:
    venv, requirements = Path(sys.argv[1]), Path(sys.argv[2])
    there = packages(venv)
    damaged = [file for info in there.values() for file in damaged_files(info)]
    if damaged:
        sys.exit(f"{len(damaged)} files are missing or cut off, such as {damaged[0]}")
    if missing := sorted(_required(requirements.read_text(encoding="utf-8")) - {*there}):
        sys.exit(f"{len(missing)} packages were not installed, such as {missing[0]}")
    problems = [each for name in IMPORTED if name in there and (each := cannot_be_imported(name))]
    if problems:
        sys.exit("; ".join(problems))
    versions = {name: info.stem.rpartition("-")[2] for name, info in there.items()}
    write_manifest(
        venv / ".manifest.json",
        {
            "python": platform.python_version(),
            "packages": str(len(there)),
            "torch": versions.get("torch", "none"),
            "flash_attention": " ".join(sys.argv[3:]) or versions.get("flash-attn", "none"),
            "bytes": str(size_of(venv)),
            "records": {name: _record_digest(info) for name, info in there.items()},
        },
    )


if __name__ == "__main__":
    main()
