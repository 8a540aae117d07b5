"""The recognisers by name. To add one, add a module with `create(settings)`, and its name below.

`settings` are `config.Settings.recognizer_settings`: plain data, so that a recogniser reads no
environment variables.
"""

import importlib

from request.errors import EngineError
from transcription.base import Recognizer, RecognizerSettings

NAMES = ("whisper",)


def create_recognizer(name: str, settings: RecognizerSettings) -> Recognizer:
    """Makes a recogniser by name; it is not loaded yet. Raises `EngineError` for an unknown one."""
    if name not in NAMES:
        raise EngineError(f"there is no recogniser {name!a}: there is {' or '.join(NAMES)}")
    recognizer: Recognizer = importlib.import_module(f"transcription.{name}").create(settings)
    return recognizer
