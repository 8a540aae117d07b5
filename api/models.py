"""The models of a server, as OpenAI lists them, and routes that load and unload them."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request

from api.errors import ApiError
from api.speaking import AppState
from config import is_loopback
from request.models import OURS, ModelNames

_CREATED = 1_756_166_400  # seconds: 2025-08-26, when VibeVoice came out


class _Listed:
    """The lists of one server: its models of speech, and its recognisers."""

    def __init__(self, state: AppState) -> None:
        self.manager = state.inference.models.manager
        self._lists = (state.defaults.models, state.transcriber.models)

    def _of(self, name: str) -> ModelNames:
        return next((names for names in self._lists if names.has(name)), self._lists[0])

    def meant(self, name: str) -> str:
        """The id of the model that a name means, of the first list that has it. Raises
        `RequestError` for a name that none has, as the first list does."""
        return self._of(name).resolve(name)

    def one(self, name: str) -> dict[str, Any]:
        """A model as OpenAI's `model` object, and whether it is loaded. `default`: the one that is
        meant where a request of its kind names none."""
        meant = self.meant(name)
        alias = {} if meant.lower() == name.lower() else {"alias_of": meant}
        return {
            "id": name,
            "object": "model",
            "created": _CREATED,
            "owned_by": OURS,
            **alias,
            "resident": self.manager.usage(meant).resident,
            "default": meant == self._of(name).ids[0],
        }

    def all(self) -> dict[str, Any]:
        """All models as OpenAI's `list`. `models` is for GUIs that read /v1/audio/models."""
        data = [self.one(name) for names in self._lists for name in names.listed]
        return {"object": "list", "data": data, "models": data}


def add_models(api: FastAPI, state: AppState) -> None:
    """Adds the routes of the models."""
    listed, default = _Listed(state), state.inference.models.default

    def check_writer(request: Request) -> None:
        here = request.client is not None and is_loopback(request.client.host)
        if not (state.settings.keys or here):
            problem = "Without API_KEYS only this machine may load and unload models."
            raise ApiError(403, problem, kind="permission_error", code="forbidden")

    @api.get("/v1/models")
    @api.get("/v1/audio/models")
    async def list_models() -> dict[str, Any]:
        """The models, and which of them are loaded."""
        return listed.all()

    @api.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, Any]:
        """One model."""
        return listed.one(name)

    @api.post("/v1/models/{name:path}/load")
    async def load_model(name: str, request: Request) -> dict[str, Any]:
        """Loads a model and answers once it can speak."""
        check_writer(request)
        with listed.manager.lease(listed.meant(name)) as lease:
            await lease.loaded()
        return listed.one(name)

    @api.post("/v1/models/{name:path}/unload")
    async def unload_model(name: str, request: Request) -> dict[str, Any]:
        """Unloads a model. The default one and those in use stay: 409."""
        check_writer(request)
        id_ = listed.meant(name)
        unloaded = await asyncio.to_thread(listed.manager.unload, id_)
        if not unloaded and listed.manager.usage(id_).resident:
            why = "is the default" if id_ == default else "is in use"
            raise ApiError(409, f"The model {id_} {why} and stays loaded.", code="model_in_use")
        return listed.one(name)
