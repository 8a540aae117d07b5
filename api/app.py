"""Door 2 as one ASGI application: every route, and what each answers."""

import re
import uuid
from collections.abc import Iterator
from typing import Annotated, Any

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import Depends, FastAPI, File, Form, Request, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from api.access import SUBPROTOCOL, Access
from api.admission import AdmissionControl, check_connection
from api.contract import most_bytes
from api.errors import ApiError, enveloped, unknown_url
from api.middleware import BodyLimit, RequestMiddleware
from api.models import add_models
from api.schema import (
    DESCRIPTION,
    ERRORS,
    SPEECH_BODY,
    SPEECH_RESPONSES,
    VOICE_CONSENT,
    VOICE_NAME,
    VOICE_SAMPLE,
)
from api.socket.session import Session
from api.speaking import AppState
from api.speech import SpeechResponse, params_of, planned
from api.static import add_pages
from api.transcription.form import (
    HEARING_PATHS,
    TRANSCRIPTION_BODY,
    TRANSCRIPTION_RESPONSES,
    TRANSLATION_BODY,
    upload_limit,
)
from api.transcription.route import transcribed
from api.voices import UPLOAD, Voices, is_form
from audio.codecs import FORMATS
from request.errors import SpeechError
from request.model import notes_of
from request.values import MOST_RECORDING_CHARS
from synthesis.dry_run import DryRunAnswer

_EXPOSED = (
    "X-Request-ID",
    "Retry-After",
    "x-should-retry",
    "openai-processing-ms",
    "X-Speech-Engine",
    "X-Speech-Voice",
    "X-Speech-Seed",
    "X-Speech-Queue-Ms",
    "X-Speech-Warnings",
    "X-Speech-Ignored",
)
_REQUEST_ID = re.compile(notes_of("request_id")["bounds"]["pattern"])


def create_app(state: AppState) -> FastAPI:
    """The application with all routes, middleware and error handlers."""
    settings = state.settings
    access = Access(settings)
    api = FastAPI(
        title="VibeVoice worker",
        description=DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
        redirect_slashes=False,
        form_limits={"max_files": 1, "max_fields": 8, "max_part_size": 16 * 1024},
        exception_handlers=dict.fromkeys(
            (SpeechError, HTTPException, RequestValidationError), enveloped
        ),
        middleware=[
            Middleware(
                CorrelationIdMiddleware,
                validator=lambda given: bool(_REQUEST_ID.fullmatch(given)),
                generator=lambda: f"req_{uuid.uuid4().hex}",
            ),
            *_cross_origin(settings.cors_origin),
            Middleware(
                RequestMiddleware,
                access,
                state.metrics,
                limits={
                    "/v1/audio/voices": UPLOAD,
                    **dict.fromkeys(HEARING_PATHS, upload_limit(settings)),
                },
                limit=BodyLimit(most_bytes(settings.openai_input_limit) + MOST_RECORDING_CHARS, 30),
            ),
        ],
    )
    _speech(api, state)
    _socket(api, state, access)
    _transcriptions(api, state)
    _voices(api, Voices(state), access)
    _lists(api, state)
    _figures(api, state)
    add_pages(api)
    if settings.keys:
        described = api.openapi()  # FastAPI caches this object, so the change lasts
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
    return api


def _cross_origin(origin: str | None) -> Iterator[Middleware]:
    """CORS headers for the pages of one site, or of all with `*`; nothing without an origin.

    A preflight allows every method and header. An error in the request itself then reaches the
    page in OpenAI's envelope, which a failed preflight would hide.
    """
    if origin:
        yield Middleware(
            CORSMiddleware,
            allow_origins=[origin],
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
            max_age=86_400,
        )


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


def _transcriptions(api: FastAPI, state: AppState) -> None:
    shown: dict[str, Any] = {"response_class": Response, "responses": TRANSCRIPTION_RESPONSES}

    @api.post(HEARING_PATHS[0], **shown, openapi_extra={"requestBody": TRANSCRIPTION_BODY})
    async def create_transcription(request: Request) -> Response:
        """Says what was said in a recording, by whom and when."""
        return await transcribed(state, request)

    @api.post(HEARING_PATHS[1], **shown, openapi_extra={"requestBody": TRANSLATION_BODY})
    async def create_translation(request: Request) -> Response:
        """Says in English what was said in a recording."""
        return await transcribed(state, request, translate=True)


def _socket(api: FastAPI, state: AppState, access: Access) -> None:
    sessions = AdmissionControl(state.settings.max_sessions, most_waiting=0)

    @api.websocket("/v1/audio/speech/stream")
    async def stream_speech(socket: WebSocket) -> None:
        names: list[str] = socket.scope.get("subprotocols", [])
        with sessions.seat() as seat:
            try:
                check_connection(socket.scope)
                access.check_origin(socket.headers)
                access.check_key(socket.headers, names)
                await seat.take()
            except ApiError as error:
                await socket.send_denial_response(error.response())
                return
            await socket.accept(SUBPROTOCOL if SUBPROTOCOL in names else None)
            await Session(state, socket).run()

    http_default = api.router.default

    async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            error = unknown_url(api.routes, scope, "WebSocket")
            await WebSocket(scope, receive, send).send_denial_response(error.response())
        else:
            await http_default(scope, receive, send)

    api.router.default = unknown


def _voices(api: FastAPI, voices: Voices, access: Access) -> None:
    @api.get("/v1/audio/voices")
    def list_voices(request: Request, model: str | None = None) -> dict[str, Any]:
        """OpenAI's names, a model's own, and for callers with a key those that were uploaded."""
        return voices.listed(access.is_known(request.headers), model)

    @api.post("/v1/audio/voices", dependencies=[Depends(is_form)])
    async def create_voice(
        name: Annotated[str, Form(json_schema_extra=VOICE_NAME)],
        consent: Annotated[str, Form(json_schema_extra=VOICE_CONSENT)],
        audio_sample: Annotated[UploadFile, File(description=VOICE_SAMPLE)],
    ) -> dict[str, Any]:
        """Stores a voice: 3 to 30 seconds of a person who agreed to be cloned."""
        return await voices.add(name, consent, audio_sample)

    @api.post("/v1/audio/voice_consents", include_in_schema=False)
    async def create_consent() -> None:
        """OpenAI's route for a spoken consent, which is a text here."""
        problem = (
            "There are no recorded consents. A voice goes to POST /v1/audio/voices as a form with "
            "name, audio_sample and consent, a text that says who agreed."
        )
        raise ApiError(501, problem, code="not_supported", retry=False)

    @api.delete("/v1/audio/voices/{name}")
    def delete_voice(name: str) -> dict[str, Any]:
        """Removes a voice that was uploaded."""
        return voices.remove(name)


def _lists(api: FastAPI, state: AppState) -> None:
    add_models(api, state)

    @api.get("/v1/capabilities")
    def get_capabilities() -> dict[str, Any]:
        """What this server can do, and how busy it is."""
        return capabilities(state)


def capabilities(state: AppState) -> dict[str, Any]:
    """The body of `GET /v1/capabilities`. `slots` are seats for answers, not those of the GPU."""
    engine, settings = state.inference.engine.inspect(), state.settings
    ear = state.transcriber.capabilities
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
        "transcription": {
            "model": ear.model,
            "resident": state.inference.models.manager.usage(ear.name).resident,
            "timestamps": state.inference.verifier is not None,
            "speakers": ear.speakers,
            "words": ear.words,
            "translation": ear.translation,
            "languages": list(ear.languages),
        },
        "models": [state.inference.models.described(name) for name in state.defaults.models.ids],
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
