"""Makes sure that the model and its tokenizer, which the worker's settings name, are on a disk.

    VENV/bin/python -m provision.model OUT [CACHE ...]

Where the worker itself would look, and in the hub caches CACHE; what is nowhere is downloaded.
Writes to OUT, a line each: the model's folder; the one hub cache that the worker has to be told of,
or an empty line; the names of the model's files. Exits with 28 where there is no room.
"""

import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from config import ConfigError, Settings
from engines.vibevoice import checkpoint
from engines.vibevoice.download import NoRoom
from engines.vibevoice.hub import PLATFORM_CACHE, Hub
from speech.errors import EngineError

log = logging.getLogger("vibevoice")


def provide(settings: Settings, caches: Sequence[Path]) -> list[str]:
    """The lines of OUT. Raises `EngineError`."""
    if settings.hf_token is None:
        log.warning("HF_TOKEN is not set; for a public model that is enough")
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    hub = Hub.of(settings.vibevoice_volume, settings.hf_hub_cache, token, more=caches)
    model, tokenizer = checkpoint.find(hub, settings.model_path, settings.model_revision)
    known = {PLATFORM_CACHE, settings.vibevoice_volume / "hf_cache"}
    holders = [cache for folder in (model.folder, tokenizer) if (cache := _cache_of(folder, hub))]
    told = [str(cache) for cache in holders if cache not in known]
    files = [
        str(file.relative_to(model.folder))
        for file in sorted(model.folder.rglob("*"))
        if any(file.match(pattern) for pattern in checkpoint.FILES)
    ]
    return [str(model.folder.absolute()), *(told[:1] or [""]), *files]


def _cache_of(folder: Path, hub: Hub) -> Path | None:
    return next((cache for cache in hub.caches if folder.is_relative_to(cache)), None)


def main() -> None:
    logging.basicConfig(format="bootstrap: %(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
    try:
        lines = provide(Settings.from_env(), [Path(cache) for cache in sys.argv[2:]])
    except NoRoom as problem:
        log.error("%s", problem)
        sys.exit(errno.ENOSPC)
    except (ConfigError, EngineError) as problem:
        sys.exit(f"bootstrap: {problem}")
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
