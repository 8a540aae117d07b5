"""Makes sure that the model and its tokenizer, which the worker's settings name, are on a disk.

    VENV/bin/python -m provision.model OUT [FLAG LOOK]
    VENV/bin/python -m provision.model --verify OUT FLAG
    VENV/bin/python -m provision.model --tokenizer CACHE

It searches where the worker itself would, and downloads what is missing. OUT gets the model's
folder and the names of its files, one a line. A model that FLAG names is looked at before: by the
sizes that the flag keeps, and where LOOK is `hashes` by the hub's hashes. Damaged files of a hub's
cache are downloaded again. With `--verify` OUT gets the names of the damaged files alone. With
`--tokenizer` it only downloads the tokenizer of the published models into the hub cache CACHE, for
an image. The exit status is 28 (ENOSPC) where there is no room.
"""

import errno
import hashlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from config import ConfigError, Settings
from engines.vibevoice import checkpoint
from engines.vibevoice.download import NoRoom, download, set_aside
from engines.vibevoice.hub import Hub, commit_of
from provision.flags import damaged_model_files, model_of
from request.errors import EngineError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

log = logging.getLogger("vibevoice")


def provide(settings: Settings) -> list[str]:
    """Finds or downloads the model and its tokenizer, and gives the lines of OUT.

    Raises `EngineError`.
    """
    if settings.hf_token is None:
        log.warning("HF_TOKEN is not set; for a public model that is enough")
    hub = Hub.of(
        settings.vibevoice_volume,
        settings.hf_hub_cache,
        settings.hf_token.get_secret_value() if settings.hf_token else None,
        more=settings.further_hub_caches,
    )
    found, _ = checkpoint.find(hub, settings.model_path, settings.model_revision)
    files = [
        str(file.relative_to(found.folder))
        for file in sorted(found.folder.rglob("*"))
        if any(file.match(pattern) for pattern in checkpoint.FILES)
    ]
    return [str(found.folder.absolute()), *files]


def damaged_by_hash(settings: Settings, folder: Path) -> list[str]:
    """The files of a snapshot that differ from the hub's. None of a folder without a commit: nobody
    knows what it should hold. Raises `EngineError` where the hub cannot be asked."""
    commit = commit_of(folder)
    if commit is None:
        return []
    from huggingface_hub import HfApi

    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    try:
        info = HfApi(token=token).model_info(
            settings.model_path, revision=commit, files_metadata=True
        )
    except (OSError, ValueError) as problem:  # bases of the library's own errors
        raise EngineError(
            f"MODEL_PATH: the hub's hashes of {settings.model_path} could not be had"
            f" ({type(problem).__name__})"
        ) from problem
    files = {file.rfilename: file for file in info.siblings or ()}
    there = {name: folder / name for name in files if (folder / name).is_file()}
    return [name for name, file in there.items() if not _is_the_hubs(file, files[name])]


def _is_the_hubs(file: Path, said: "RepoSibling") -> bool:
    with file.open("rb") as opened:
        if said.lfs:
            return hashlib.file_digest(opened, "sha256").hexdigest() == said.lfs.sha256
        blob = b"blob %d\0" % file.stat().st_size + opened.read()  # as git hashes it
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == said.blob_id


def set_aside_damaged(settings: Settings, flag: Path, look: str) -> None:
    """Makes a damaged snapshot a download to be resumed, which keeps what has the hub's hash.

    A folder of the user's is not touched; the model's own checks judge it.
    """
    damaged, model = damaged_model_files(flag), model_of(flag)
    if model is None:
        return
    if look == "hashes" and not damaged:
        try:
            damaged = damaged_by_hash(settings, model)
        except EngineError as problem:
            log.warning("%s: its sizes alone are compared", problem)
    if damaged:
        log.warning("the model in %s is damaged: %s", model, ", ".join(damaged))
        if commit_of(model) and model.is_dir():
            set_aside(model, model.parents[1] / f".{model.name}.part")


def provide_tokenizer(cache: Path) -> None:
    download(
        checkpoint.DEFAULT_TOKENIZER,
        "the model's tokenizer",
        checkpoint.TOKENIZER_FILES,
        cache,
        checkpoint.check_tokenizer,
    )


def main() -> None:
    logging.basicConfig(format="bootstrap: %(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
    try:
        match sys.argv[1:]:
            case ["--tokenizer", cache]:
                provide_tokenizer(Path(cache))
            case ["--verify", out, flag]:
                _write(out, damaged_by_hash(Settings.from_env(), model_of(Path(flag)) or Path()))
            case [out, *known]:
                settings = Settings.from_env()
                if known:
                    set_aside_damaged(settings, Path(known[0]), known[1])
                _write(out, provide(settings))
    except NoRoom as problem:
        log.error("%s", problem)
        sys.exit(errno.ENOSPC)
    except (ConfigError, EngineError) as problem:
        sys.exit(f"bootstrap: {problem}")


def _write(out: str, lines: list[str]) -> None:
    Path(out).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
