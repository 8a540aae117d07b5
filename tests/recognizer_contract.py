"""What every recogniser behind the wall must do, whatever its model.

Subclass `RecognizerContract` in a test module, name the subclass `Test...` and say how to make the
recogniser and speech for it.
"""

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from audio.pcm import SAMPLE_RATE, Samples, silence
from audio.spool import Spool
from request.errors import Cancelled
from tests.engine_contract import in_threads
from transcription.base import (
    Clip,
    KnownSpeaker,
    Options,
    Recognizer,
    Segment,
    seconds_of,
)


class RecognizerContract:
    def make_recognizer(self) -> Recognizer:
        raise NotImplementedError

    def make_speech(self) -> list[Samples]:
        """Three sentences of one second or more: two of one voice, the last of another. Each is a
        segment of its own."""
        raise NotImplementedError

    said: tuple[str, ...]
    """A word of each sentence, as the recogniser writes it."""

    @pytest.fixture(scope="class")
    @classmethod
    def recognizer(cls) -> Iterator[Recognizer]:
        """One for all tests that leave it as it was."""
        made = cls().make_recognizer()
        yield made
        made.close()

    @pytest.fixture(scope="class")
    @classmethod
    def sentences(cls) -> list[Samples]:
        return cls().make_speech()

    @pytest.fixture
    def audio(self, sentences: list[Samples]) -> Clip:
        return Clip(np.concatenate(sentences))

    # Loading

    def test_it_names_itself_its_model_and_its_languages(self, recognizer: Recognizer) -> None:
        capabilities = recognizer.capabilities
        assert capabilities.name
        assert capabilities.model
        assert "en" in capabilities.languages
        assert len(set(capabilities.languages)) == len(capabilities.languages)

    def test_it_is_ready_once_loaded_by_however_many(self, recognizer: Recognizer) -> None:
        new = self.make_recognizer()
        assert not new.ready
        assert not new.capabilities.details
        in_threads(3, lambda _: new.load())
        assert new.ready
        assert new.capabilities.details["device"] in ("cpu", "cuda")
        new.close()
        new.close()
        assert recognizer.capabilities.name == new.capabilities.name

    def test_it_may_be_closed_before_it_is_loaded(self) -> None:
        new = self.make_recognizer()
        new.close()
        assert not new.ready

    # What is heard

    @pytest.fixture(scope="class")
    @classmethod
    def heard(cls, recognizer: Recognizer, sentences: list[Samples]) -> list[Segment]:
        """The audio's segments with their words: heard once, since real models take seconds."""
        clip = Clip(np.concatenate(sentences))
        return list(recognizer.transcribe(clip, Options("en", words=True)))

    def test_segments_are_final_in_order_and_within_the_audio(
        self, heard: list[Segment], audio: Clip
    ) -> None:
        starts = [segment.start_sec for segment in heard]
        assert starts == sorted(starts)
        for segment, word in zip(heard, self.said, strict=True):
            assert word in segment.text
            assert segment.text == segment.text.strip()
            assert segment.final
            assert 0 <= segment.start_sec < segment.end_sec <= seconds_of(audio)
            assert segment.speaker is None

    def test_words_are_the_text_and_lie_in_order_within_their_segment(
        self, heard: list[Segment]
    ) -> None:
        for segment in heard:
            assert " ".join(word.text for word in segment.words) == segment.text
            times = [at for word in segment.words for at in (word.start_sec, word.end_sec)]
            assert times == sorted(times)
            assert segment.start_sec <= times[0] < times[-1] <= segment.end_sec
            assert all(0 <= word.probability <= 1 for word in segment.words)

    def test_audio_on_disk_in_an_unknown_language_is_heard_as_audio_in_memory(
        self, recognizer: Recognizer, sentences: list[Samples], heard: list[Segment]
    ) -> None:
        spool = Spool()
        for samples in sentences:
            spool.append(samples)
        transcript = recognizer.transcribe(spool, Options())
        segments = list(transcript)
        assert [segment.text for segment in segments] == [segment.text for segment in heard]
        assert all(segment.words == () for segment in segments)
        assert transcript.language == "en"
        assert transcript.duration_sec == seconds_of(spool)
        assert transcript.heard_sec == pytest.approx(seconds_of(spool), abs=0.01)
        spool.close()

    @pytest.mark.parametrize("seconds", [0, 0.001, 2])
    def test_nothing_is_heard_in_silence(self, recognizer: Recognizer, seconds: float) -> None:
        clip = Clip(silence(round(seconds * SAMPLE_RATE)))
        transcript = recognizer.transcribe(clip, Options("en", words=True, speakers=True))
        assert list(transcript) == []
        assert transcript.language is None

    def test_two_voices_are_two_speakers_and_previews_come_before_them(
        self, recognizer: Recognizer, audio: Clip, heard: list[Segment]
    ) -> None:
        if not recognizer.capabilities.speakers:
            pytest.skip("this recogniser tells no speakers here")
        found = list(recognizer.transcribe(audio, Options("en", speakers=True, partials=True)))
        segments = [segment for segment in found if segment.final]
        assert [segment.speaker for segment in segments] == ["A", "A", "B"]
        assert [segment.text for segment in segments] == [segment.text for segment in heard]
        for segment in segments:
            earlier = found[: found.index(segment)]
            assert any(segment.text in each.text for each in earlier if not each.final)

    def test_a_known_speaker_has_the_name_that_was_given(
        self, recognizer: Recognizer, audio: Clip, sentences: list[Samples]
    ) -> None:
        """And no other speaker has it."""
        if not recognizer.capabilities.speakers:
            pytest.skip("this recogniser tells no speakers here")
        known = (KnownSpeaker("A", sentences[2]),)
        options = Options("en", speakers=True, known_speakers=known)
        segments = list(recognizer.transcribe(audio, options))
        assert [segment.speaker for segment in segments] == ["B", "B", "A"]
        assert all(segment.final for segment in segments)

    # Side by side

    def test_transcripts_in_two_threads_are_as_they_are_alone(
        self, recognizer: Recognizer, sentences: list[Samples]
    ) -> None:
        together: dict[int, list[Segment]] = {}

        def hear(number: int) -> None:
            transcript = recognizer.transcribe(Clip(sentences[number]), Options("en"))
            together[number] = list(transcript)

        in_threads(2, hear)
        for number, segments in together.items():
            assert [self.said[number] in segment.text for segment in segments] == [True]

    # Cancelling

    def test_a_transcript_cancelled_before_it_is_read_raises_at_once(
        self, recognizer: Recognizer, audio: Clip
    ) -> None:
        transcript = recognizer.transcribe(audio, Options("en"))
        transcript.cancel()
        with pytest.raises(Cancelled):
            next(iter(transcript))

    def test_a_transcript_cancelled_halfway_raises_at_the_next_segment(
        self, recognizer: Recognizer, audio: Clip
    ) -> None:
        transcript = recognizer.transcribe(audio, Options("en"))
        reader = iter(transcript)
        next(reader)
        in_threads(1, lambda _: transcript.cancel())
        transcript.cancel()
        with pytest.raises(Cancelled):
            next(reader)

    def test_a_transcript_may_be_cancelled_after_its_end(
        self, recognizer: Recognizer, sentences: list[Samples]
    ) -> None:
        transcript = recognizer.transcribe(Clip(sentences[0]), Options("en"))
        reader = iter(transcript)
        assert len(list(reader)) == 1
        transcript.cancel()
        assert next(reader, None) is None

    def test_an_abandoned_transcript_leaves_no_thread(
        self, recognizer: Recognizer, audio: Clip
    ) -> None:
        before = set(threading.enumerate())
        begun = iter(recognizer.transcribe(audio, Options("en")))
        next(begun)
        del begun
        gc.collect()
        assert set(threading.enumerate()) <= before
