"""What can go wrong, as types. Every message is written for the caller who reads it in `error`.

A message names no path of the machine and carries no secret; whatever else escapes a job is an
internal error, which the doors report without its text.
"""


class SpeechError(Exception):
    """A failure that the caller is told about in these words."""


class RequestError(SpeechError):
    """The request cannot be served as it stands. Raised before any synthesis."""


class VoiceError(RequestError):
    """A voice that was asked for does not exist or cannot be used."""


class EngineError(SpeechError):
    """The engine could not load or could not finish what it began."""


class EngineLost(EngineError):
    """The engine cannot work again in this process: the worker has to be replaced."""


class DeliveryError(SpeechError):
    """The audio is made but cannot be handed over; the message says where it is kept."""


class Cancelled(Exception):
    """The job was cancelled. Not an error of anybody's, so not a `SpeechError`."""
