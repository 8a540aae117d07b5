"""Any server with OpenAI's contract for speech, as an engine.

engine.py    the engine
client.py    one request to that server, as a stream of samples
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.base import Engine, EngineSettings

IN_PROCESS = True
"""It waits for a network, and has nothing that could break this process."""


def create(settings: "EngineSettings") -> "Engine":
    """The first of UPSTREAM_MODELS, unless the setting `upstream_model` names another."""
    from engines.upstream.client import Upstream
    from engines.upstream.engine import UpstreamEngine

    key = settings["upstream_key"]
    models = settings["upstream_models"]
    model = settings.get("upstream_model") or next(iter(models), "tts-1")
    server = Upstream(settings["upstream_url"], key and key.get_secret_value(), model)
    return UpstreamEngine(server, settings["upstream_voices"])
