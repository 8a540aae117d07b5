"""The second door as one ASGI application: every route, and what each answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from api.access import SUBPROTOCOL, Access
from api.errors import ApiError, as_api_error, busy, invalid
from api.middleware import RequestMiddleware
from api.models import model, models
from api.reference import add_reference
from api.schema import DESCRIPTION, ERRORS, SPEECH_BODY, SPEECH_RESPONSES, VOICE_BODY
from api.socket.session import Session
from api.speaking import AppState
from api.speech import SpeechResponse, params_of, planned
from api.static import PATHS, add_page
from api.voices import Voices
from audio.codecs import FORMATS
from request.errors import SpeechError
from synthesis.dry_run import DryRunAnswer

OPEN_PATHS = frozenset({"/ping", "/health", "/docs", "/openapi.json"}) | PATHS


def create_app(state: AppState) -> ASGIApp:
    api = FastAPI(
        title="VibeVoice worker",
        description=DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
        exception_handlers=dict.fromkeys(
            (ApiError, SpeechError, HTTPException, RequestValidationError, Exception), _enveloped
        ),
    )
    _speech(api, state)
    settings = state.settings
    access = Access(settings)
    _socket(api, state, access)
    _voices(api, Voices(state))
    _lists(api, state)
    _figures(api, state)
    add_reference(api)
    add_page(api)
    return RequestMiddleware(
        api, api.routes, access, state.metrics, settings.cors_origin, OPEN_PATHS
    )


async def _enveloped(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = invalid(None, "invalid_value", "The request does not fit the description.")
    elif isinstance(error, HTTPException):
        error = invalid(None, "invalid_value", str(error.detail), error.status_code)
    return as_api_error(error).response()


def _speech(api: FastAPI, state: AppState) -> None:
    @api.post(
        "/v1/audio/speech",
        response_class=Response,
        responses=SPEECH_RESPONSES,
        openapi_extra={"requestBody": SPEECH_BODY},
    )
    async def create_speech(request: Request) -> Response:
        """Speaks a text, as bytes that come while it is spoken."""
        params = await params_of(request, state)
        return (
            await planned(state, params) if params.speech.dry_run else SpeechResponse(state, params)
        )

    @api.post(
        "/v1/audio/speech/plan",
        response_model=DryRunAnswer,
        openapi_extra={"requestBody": SPEECH_BODY},
    )
    async def plan_speech(request: Request) -> Response:
        """Says how a text would be read: its chunks, turns and silences. Nothing is spoken."""
        return await planned(state, await params_of(request, state))


def _socket(api: FastAPI, state: AppState, access: Access) -> None:
    sessions = Sessions(state.settings.max_sessions)

    @api.websocket("/v1/audio/speech/stream")
    async def stream_speech(socket: WebSocket) -> None:
        names: list[str] = socket.scope.get("subprotocols", [])
        try:
            access.check_origin(socket.headers)
            access.check_key(socket.headers, names)
            sessions.check()
        except ApiError as error:
            await socket.send_denial_response(error.response())
            return
        with sessions.one():
            await socket.accept(SUBPROTOCOL if SUBPROTOCOL in names else None)
            await Session(state, socket).run()


class Sessions:
    """How many sockets are open."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0

    def check(self) -> None:
        if self._count >= self._most:
            raise busy(f"All {self._most} sessions are open.", 10)

    @contextmanager
    def one(self) -> Iterator[None]:
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


def _voices(api: FastAPI, voices: Voices) -> None:
    @api.get("/v1/audio/voices")
    def list_voices() -> dict[str, Any]:
        """OpenAI's names, the worker's own, and those that were uploaded."""
        return voices.listed()

    @api.post("/v1/audio/voices", openapi_extra={"requestBody": VOICE_BODY})
    async def create_voice(request: Request) -> dict[str, Any]:
        """Stores a voice: 3 to 30 seconds of one who agreed to be spoken like."""
        return await voices.add(request)

    @api.delete("/v1/audio/voices/{name}")
    def delete_voice(name: str) -> dict[str, Any]:
        """Removes a voice that was uploaded."""
        return voices.remove(name)


def _lists(api: FastAPI, state: AppState) -> None:
    @api.get("/v1/models")
    @api.get("/v1/audio/models")
    async def list_models() -> dict[str, Any]:
        """The models, all of them the same voice."""
        return models()

    @api.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, Any]:
        """One model."""
        return model(name)

    @api.get("/v1/capabilities")
    def get_capabilities() -> dict[str, Any]:
        """What this server can do, and how busy it is."""
        return capabilities(state)


def capabilities(state: AppState) -> dict[str, Any]:
    engine, settings = state.inference.engine.inspect(), state.settings
    return {
        "engine": engine.name,
        "model": dict(engine.details),
        "figures": dict(engine.figures),
        "ready": state.health.status == 200,
        "cloning": engine.cloning,
        "languages": list(engine.languages),
        "streaming": {"http": True, "sse": True, "websocket": True},
        "formats": list(FORMATS),
        "sample_rate": settings.default_sample_rate,
        "input_limit": settings.openai_input_limit,
        "slots": state.admission.count,
        "slots_taken": state.admission.taken,
        "queue_limit": settings.max_queue,
        "queue_depth": state.admission.waiting,
        "real_time_factor": state.metrics.real_time_factor,
    }


def _figures(api: FastAPI, state: AppState) -> None:
    @api.get("/ping", response_class=Response, responses={204: {}, 503: {}})
    async def ping() -> Response:
        """204 while the engine loads or starts anew, 200 while it can speak, 503 if it failed."""
        return Response(status_code=state.health.status)

    @api.get("/health")
    async def health() -> Response:
        """The same in words."""
        status = state.health.status
        words = {200: "ok", 204: "loading"}.get(status, "unhealthy")
        return JSONResponse({"status": words}, 503 if status == 503 else 200)

    @api.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
