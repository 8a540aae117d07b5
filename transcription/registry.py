"""The recognisers by name. To add one, add a module with `create(settings)`, and its name below.

`settings` are `config.Settings.recognizer_settings`: plain data, so that a recogniser reads no
environment variables.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from engines.manager import Lease, ModelManager
from request.errors import EngineError
from transcription.base import Recognizer, RecognizerSettings

if TYPE_CHECKING:
    from transcription.verifier import SpeechVerifier

NAMES = ("whisper",)
LeaseRecognizer = Callable[[], Lease[Recognizer]]
"""Takes a lease of the recogniser that all of a process share."""

_FOR_VERIFICATION = ("faster_whisper", "rapidfuzz", "whisper_normalizer")


def create_recognizer(name: str, settings: RecognizerSettings) -> Recognizer:
    """Makes a recogniser by name; it is not loaded yet. Raises `EngineError` for an unknown one."""
    if name not in NAMES:
        raise EngineError(f"there is no recogniser {name!a}: there is {' or '.join(NAMES)}")
    recognizer: Recognizer = importlib.import_module(f"transcription.{name}").create(settings)
    return recognizer


def register_recognizer(manager: ModelManager, settings: RecognizerSettings) -> LeaseRecognizer:
    """Puts the default recogniser among the models of a worker. Raises `EngineError` if one of them
    has its name."""
    name = NAMES[0]
    manager.register(name, partial(create_recognizer, name, settings))
    manager.watch()
    return partial(manager.lease, name)


def create_verifier(lease: LeaseRecognizer) -> "SpeechVerifier | None":
    """What hears the takes of requests. None where its packages are missing."""
    if not all(importlib.util.find_spec(name) for name in _FOR_VERIFICATION):
        return None
    from transcription.speakers import SpeakerEncoder, available
    from transcription.verifier import SpeechVerifier

    encoder = SpeakerEncoder() if available() else None
    return SpeechVerifier(lease, encoder)
