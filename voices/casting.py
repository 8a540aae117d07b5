"""Casting: which voice each speaker of a script gets."""

from collections.abc import Callable, Collection, Mapping, Sequence

from request.model import SpeechRequest
from voices.catalogue import Voice, VoiceMapper

Recording = Callable[[], tuple[Voice, list[str]]]
"""Gives a request's own voice, and warnings. Called only if that voice is needed."""


def cast(
    request: SpeechRequest,
    numbers: Sequence[int],
    named: Mapping[int, str],
    voices: VoiceMapper,
    recording: Recording,
    known: Mapping[int, Voice],
) -> tuple[dict[int, Voice], list[str]]:
    """A voice for each speaker number, and warnings. Raises `VoiceError`.

    `numbers` are all speakers so far, in order of appearance. A speaker gets, in this order:

    1. the voice in `known`, which it has already;
    2. the voice named in `named`;
    3. if it is the first, the request's recording or `speaker_name`;
    4. a voice that no other speaker has.
    """
    chosen, warnings = dict(known), list[str]()
    first = numbers[0]
    for number in numbers:
        if number not in chosen and number in named:
            chosen[number], notes = voices.resolve(named[number], f"speakers.{number}")
            warnings += notes
    if first not in chosen and (request.voice_url or request.voice_base64):
        chosen[first], notes = recording()
        warnings += notes
        if request.speaker_name:
            warnings.append("speaker_name: ignored, since a recording is given")
    elif first not in chosen and request.speaker_name:
        chosen[first], notes = voices.resolve(request.speaker_name)
        warnings += notes
    for number in numbers:
        if number not in chosen:
            name, note = _unused(voices, chosen.values(), number)
            chosen[number], notes = voices.resolve(name)
            warnings += [*note, *notes]
    return chosen, list(dict.fromkeys(warnings))


def names_of(request: SpeechRequest, speakers: Sequence[int]) -> dict[int, str]:
    """The request's voice names by speaker number. `speakers` are in order of appearance."""
    if isinstance(request.speakers, dict):
        return request.speakers
    return dict(zip(speakers, request.speakers or (), strict=False))


def unmatched(request: SpeechRequest, speakers: Sequence[int]) -> list[str]:
    """Warnings on names for speakers that do not occur. `speakers` are those of the whole text."""
    if request.speakers and not speakers:
        return ["speakers: ignored, since the text has no `Speaker N:` lines"]
    if isinstance(request.speakers, dict):
        missing = sorted(set(request.speakers) - set(speakers))
        return [f"speakers: the text has no lines of Speaker {number}" for number in missing]
    if len(request.speakers or ()) > len(speakers):
        return [f"speakers: the text has lines of {len(speakers)} speakers only"]
    return []


def _unused(
    voices: VoiceMapper, chosen: Collection[Voice], number: int
) -> tuple[str | None, list[str]]:
    """A name for a speaker without one, and a warning if all voices are taken. None is the default
    voice, which comes first; then come the others in their order."""
    taken = {voice.name for voice in chosen}
    if not taken or voices.resolve(None)[0].name not in taken:
        return None, []
    free = [name for name in voices.names(uploads=False) if name not in taken]
    if free:
        return free[0], []
    return None, [f"speakers: there are too few voices, so Speaker {number} shares one"]
