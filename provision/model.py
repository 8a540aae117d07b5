"""Makes sure that the model and its tokenizer, which the worker's settings name, are on a disk.

    VENV/bin/python -m provision.model OUT
    VENV/bin/python -m provision.model --tokenizer CACHE

It searches where the worker itself would, and downloads what is missing. OUT gets the model's
folder and the names of its files, one a line. With `--tokenizer` it only downloads the tokenizer of
the published models into the hub cache CACHE, for an image. The exit status is 28 (ENOSPC) where
there is no room.
"""

import errno
import logging
import sys
from pathlib import Path

from config import ConfigError, Settings
from engines.vibevoice import checkpoint
from engines.vibevoice.download import NoRoom, download
from engines.vibevoice.hub import Hub
from request.errors import EngineError

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
        if sys.argv[1] == "--tokenizer":
            provide_tokenizer(Path(sys.argv[2]))
        else:
            lines = provide(Settings.from_env())
            Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    except NoRoom as problem:
        log.error("%s", problem)
        sys.exit(errno.ENOSPC)
    except (ConfigError, EngineError) as problem:
        sys.exit(f"bootstrap: {problem}")


if __name__ == "__main__":
    main()
