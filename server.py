"""Door 2: HTTP and WebSocket, by OpenAI's contract; also RunPod's load-balancing endpoints.

    python server.py        serves on HOST and PORT; see docs/streaming.md

Importing this module starts nothing. Logs carry a request's id and never its text or a key.
"""

import logging
import signal
import sys

import uvicorn

from api.app import create_app
from api.health import Health, health_port
from api.protocol import Protocol, SocketProtocol, backlog
from api.speaking import AppState
from config import ConfigError, Settings
from provision.begin import up
from provision.in_use import mark_in_thread
from provision.outcome import end_alike
from request.errors import SpeechError
from synthesis.inference import VibeVoiceInference
from transcription.registry import create_verifier, register_recognizer
from transcription.transcriber import Transcriber
from voices.uploads import VoiceStore

MOST_MESSAGE_BYTES = 256 * 1024
_LAST_ANSWERS_SEC = 30
# Longer than a proxy keeps an idle connection (workerd 5 s, nginx 60 s). With uvicorn's 5 s a proxy
# could send a request on a connection that the server has just closed.
_IDLE_SEC = 75


def make_server(
    inference: VibeVoiceInference, health: Health, transcriber: Transcriber
) -> uvicorn.Server:
    """The server, not yet running."""
    config = uvicorn.Config(
        create_app(AppState.of(inference, health, transcriber)),
        host=inference.settings.address,
        port=inference.settings.port,
        http=Protocol,
        ws=SocketProtocol,
        ws_max_size=MOST_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # audio cannot be compressed further
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=_IDLE_SEC,
        timeout_graceful_shutdown=_LAST_ANSWERS_SEC,
    )
    return uvicorn.Server(config)


def serve(inference: VibeVoiceInference, transcriber: Transcriber, log: logging.Logger) -> None:
    """Serves until a signal. Answers under way then have 30 s to end."""
    settings, health = inference.settings, Health(inference, loaded=up)
    server = make_server(inference, health, transcriber)
    own_port = settings.port_health if settings.port_health != settings.port else None
    with (
        server.config.bind_socket() as listener,
        health_port(health, settings.address, own_port),
    ):
        listener.listen(backlog())
        inference.note_start()
        log.info("serving on %s, port %d", settings.address, listener.getsockname()[1])
        health.load_in_thread()
        server.run(sockets=[listener])


def log_to_stderr(level: str = "INFO") -> None:
    """Logs to stderr."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        force=True,  # replaces what a library has set
    )
    # uvicorn logs paths as callers send them; `api.middleware` logs routes.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def main() -> None:
    """Checks the settings and serves."""
    try:
        settings = Settings.from_env()
        settings.check_reachable()
        log_to_stderr(settings.log_level)
        inference = VibeVoiceInference(settings, concurrency=settings.max_streams, subprocess=True)
        lease = register_recognizer(inference.models.manager, settings.recognizer_settings)
        inference.verifier = create_verifier(lease)
        transcriber = Transcriber(lease, settings.max_transcriptions, settings.max_audio_sec)
    except (ConfigError, SpeechError) as error:
        sys.exit(f"The server cannot start:\n{error}")
    mark_in_thread()
    log = logging.getLogger("vibevoice.http")
    uploads = VoiceStore(settings.audio_prompts_dir)
    for problem in (*inference.voices.problems(), *uploads.problems()):
        log.warning(problem)
    # uvicorn raises the signal again after its shutdown. By default that skips the `finally` below.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))
    end_alike()
    try:
        serve(inference, transcriber, log)
    finally:
        transcriber.close()
        inference.close()


if __name__ == "__main__":
    main()
