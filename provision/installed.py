"""Checks a new virtual environment from inside it, and writes its manifest.

    VENV/bin/python -m provision.installed VENV [FLASH_ATTENTION_OUTCOME]

Every file in a package's RECORD must exist in its size, and the large packages must be importable.
flash-attn is not imported, because that needs a GPU. The worker tries it before it uses it.
"""

import importlib
import platform
import sys
import sysconfig
from importlib.metadata import Distribution, distributions
from pathlib import Path

from provision.parts import size_of, write_manifest

IMPORTED = ("torch", "transformers", "diffusers", "accelerate", "runpod", "soundfile", "av")


def damaged_files(package: Distribution) -> list[str]:
    """The files of a package that are missing or have another size than in its RECORD."""
    return [
        str(file)
        for file in package.files or ()
        if file.size is not None and _size(Path(str(file.locate()))) != file.size
    ]


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def cannot_be_imported(name: str) -> str | None:
    """Imports a module. Gives the error as a sentence, or None where it succeeds."""
    try:
        importlib.import_module(name)
    except Exception as problem:  # noqa: BLE001 - an import may raise anything
        lines = str(problem).splitlines() or [""]
        return f"{name} cannot be imported ({type(problem).__name__}: {lines[0][:200]})"
    return None


def main() -> None:
    venv = Path(sys.argv[1])
    places = sysconfig.get_paths()
    packages = list(distributions(path=list({places["purelib"], places["platlib"]})))
    damaged = [file for package in packages for file in damaged_files(package)]
    if damaged:
        sys.exit(f"{len(damaged)} files are missing or cut off, such as {damaged[0]}")
    versions = {package.metadata["Name"]: package.version for package in packages}
    large = [name for name in IMPORTED if name in versions]
    problems = [problem for name in large if (problem := cannot_be_imported(name))]
    if problems:
        sys.exit("; ".join(problems))
    write_manifest(
        venv / ".manifest.json",
        {
            "python": platform.python_version(),
            "packages": str(len(packages)),
            "torch": versions.get("torch", "none"),
            "flash_attention": " ".join(sys.argv[2:]) or versions.get("flash_attn", "none"),
            "bytes": str(size_of(venv)),
        },
    )


if __name__ == "__main__":
    main()
