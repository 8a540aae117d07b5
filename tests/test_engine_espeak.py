import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engines.base import SAMPLE_RATE, End, Frame, Plan, PlannedChunk, Samples, Turn, Voice
from engines.espeak import library as espeak_library
from engines.espeak.engine import EspeakEngine
from request.errors import Cancelled, EngineError
from tests.engine_contract import by_chunk, in_threads

ENGINE = EspeakEngine()
NAMES = ENGINE.capabilities.voices
WOMEN = {"Alice", "Maya", "Mary", "Xinran"}
SENTENCE = "The quick brown fox jumps over the lazy dog. "
LONG = SENTENCE * 25


def plan(*turns: tuple[str, str], seed: int = 1) -> Plan:
    """One chunk of turns, each a voice's name and a text."""
    names = list(dict.fromkeys(name for name, _ in turns))
    spoken = tuple(Turn(names.index(name), text) for name, text in turns)
    return Plan((PlannedChunk(spoken, seed),), tuple(Voice(name) for name in names))


def speak(text: str, voice: str = "Alice") -> Samples:
    return by_chunk(list(ENGINE.start(plan((voice, text)))))[0]


def pitch(samples: Samples) -> float:
    """The median fundamental in Hz of the voiced parts, by autocorrelation."""
    width, low, high = 2048, SAMPLE_RATE // 400, SAMPLE_RATE // 60
    found = []
    for at in range(0, len(samples) - width, width):
        window = samples[at : at + width] * np.hanning(width)
        spectrum = np.abs(np.fft.rfft(window, 2 * width)) ** 2
        likeness = np.fft.irfft(spectrum)[:high]
        lag = low + int(likeness[low:].argmax())
        if likeness[0] > 1 and likeness[lag] > 0.5 * likeness[0]:
            found.append(SAMPLE_RATE / lag)
    return float(np.median(found))


# Voices


def test_the_default_voice_is_alice_and_names_are_the_models_own() -> None:
    assert NAMES[:4] == ("Alice", "Frank", "Carter", "Maya")


def test_every_voice_has_a_pitch_of_its_own() -> None:
    pitches = {name: pitch(speak(SENTENCE * 2, name)) for name in NAMES}
    assert {name for name in NAMES if pitches[name] > 150} == WOMEN
    ladder = sorted(pitches.values())
    assert all(high / low > 1.08 for low, high in itertools.pairwise(ladder)), pitches


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("en-Alice_woman", "Alice"),
        ("en-Carter_man", "Carter"),
        ("ALICE", "Alice"),
        ("zh-Xinran_woman", "Xinran"),
        ("narrator", "Carter"),  # by its hash: the same in every process
    ],
)
def test_a_file_name_gets_the_voice_it_names(name: str, known: str) -> None:
    assert np.array_equal(speak(SENTENCE, name), speak(SENTENCE, known))


def test_a_strange_name_gets_a_voice_of_the_sex_it_mentions() -> None:
    assert pitch(speak(SENTENCE * 2, "de-Lena_woman")) > 150
    assert pitch(speak(SENTENCE * 2, "de-Klaus_man")) < 150


def test_voices_of_one_plan_are_never_alike_while_there_are_enough() -> None:
    names = ["A-Alice_woman", "Alice", "x", "y", "a_man", "b_man", "c_man", "d_man", "e_man"]
    voices = tuple(map(Voice, names))
    chunks = tuple(PlannedChunk((Turn(n, SENTENCE),), 1) for n in range(len(voices)))
    spoken = by_chunk(list(ENGINE.start(Plan(chunks, voices))))
    for one, other in itertools.combinations(spoken.values(), 2):
        assert not np.array_equal(one, other)
    assert np.array_equal(spoken[1], speak(SENTENCE, "Alice"))


def test_two_recordings_of_one_name_sound_different() -> None:
    voices = (Voice("me", sha256="aa"), Voice("me", sha256="bb"))
    chunks = tuple(PlannedChunk((Turn(n, SENTENCE),), 1) for n in (0, 1))
    spoken = by_chunk(list(ENGINE.start(Plan(chunks, voices))))
    assert not np.array_equal(spoken[0], spoken[1])


def test_more_voices_than_there_are_still_speak() -> None:
    turns = [(f"voice {number}", "Yes.") for number in range(12)]
    assert isinstance(list(ENGINE.start(plan(*turns)))[-1], End)


# Sound


def test_frames_hold_3200_samples_and_the_last_what_is_left() -> None:
    lengths = [len(e.samples) for e in ENGINE.start(plan(("Alice", LONG))) if isinstance(e, Frame)]
    assert set(lengths[:-1]) == {3200}
    assert 0 < lengths[-1] <= 3200


def test_a_chunk_holds_all_that_the_library_said(monkeypatch: pytest.MonkeyPatch) -> None:
    library = espeak_library.load()
    counts = []
    say = library.say

    def counting(*rest: object) -> object:
        pcm = say(*rest)  # type: ignore[arg-type]
        counts.append(len(pcm))
        return pcm

    monkeypatch.setattr(library, "say", counting)
    assert len(speak(LONG)) == round(sum(counts) * SAMPLE_RATE / library.rate)
    assert len(counts) > 4


def test_speech_comes_at_24_khz_at_a_natural_pace() -> None:
    words_a_minute = 9 * 60 / (len(speak(SENTENCE)) / SAMPLE_RATE)
    assert 130 < words_a_minute < 220


@pytest.mark.parametrize("name", NAMES)
def test_no_voice_comes_near_full_scale(name: str) -> None:
    loud = "你好，今天天气很好。我们去公园吧，好不好？ 大家要小心！"
    assert 0.2 < np.abs(speak(loud, name)).max() < 0.95


@pytest.mark.parametrize(
    "text",
    [
        "今天天气很好，我们去公园吧。",
        "きょうはいいてんきですね。",
        "スーパーコンピューター",
        "오늘은 날씨가 아주 좋습니다.",
        "Сегодня очень хорошая погода.",
        "Σήμερα ο καιρός είναι πολύ καλός.",
        "Այսօր եղանակը շատ լավ է։",
        "დღეს ძალიან კარგი ამინდია.",
        "היום מזג האוויר יפה מאוד.",
        "الطقس جميل جدا اليوم.",
        "ዛሬ አየሩ በጣም ጥሩ ነው።",
        "आज मौसम बहुत अच्छा है।",
        "আজ আবহাওয়া খুব ভালো।",
        "આજે હવામાન ખૂબ સારું છે.",
        "ਅੱਜ ਮੌਸਮ ਬਹੁਤ ਵਧੀਆ ਹੈ।",
        "ଆଜି ପାଗ ବହୁତ ଭଲ ଅଛି।",
        "අද කාලගුණය ඉතා හොඳයි.",
        "இன்று வானிலை மிகவும் நன்றாக உள்ளது.",
        "ఈ రోజు వాతావరణం చాలా బాగుంది.",
        "ಇಂದು ಹವಾಮಾನ ತುಂಬಾ ಚೆನ್ನಾಗಿದೆ.",
        "ഇന്ന് കാലാവസ്ഥ വളരെ നല്ലതാണ്.",
        "วันนี้อากาศดีมาก",
        "ဒီနေ့ ရာသီဥတု အရမ်းကောင်းတယ်။",
    ],
)
def test_a_script_is_read_in_its_language(text: str) -> None:
    samples = speak(text)
    assert np.sqrt(np.mean(samples**2)) > 0.01
    letters = sum(character.isalpha() for character in text)
    assert 0.03 < len(samples) / SAMPLE_RATE / letters < 0.4  # spelled out, a letter takes 0.7 s


@pytest.mark.parametrize("text", ["１２", "①②", "Ｈｉ", "ｶﾀｶﾅ", "١٢", "۱۲", "१२", "๑๒", "三", "3"])
def test_digits_and_wide_letters_are_read(text: str) -> None:
    assert len(speak(text)) > SAMPLE_RATE // 3


@pytest.mark.parametrize(
    "before", [LONG, "שלום, היום מזג האוויר יפה מאוד.", "你好，今天天气很好。", "Это, привет!"]
)
@pytest.mark.parametrize("text", [SENTENCE, "ရ", "บ", "Привет, world!", "γεια"])
def test_what_was_said_before_leaves_no_trace(text: str, before: str) -> None:
    expected = speak(text, "Xinran")
    speak(before, "Maya")
    assert np.array_equal(speak(text, "Xinran"), expected)


# Text that is no speech


@pytest.mark.parametrize(
    "text", ["", " ", "...", "!", "?!", "—", "\0", "\ud800", "\x01", "\n\n", "ʻ"]
)
def test_a_turn_with_nothing_to_say_has_no_samples(text: str) -> None:
    assert list(ENGINE.start(plan(("Alice", text), seed=9))) == [End(0, "empty", 9)]


def test_an_empty_turn_adds_nothing_to_its_chunk() -> None:
    events = list(ENGINE.start(plan(("Frank", "..."), ("Alice", SENTENCE), ("Frank", ""))))
    assert np.array_equal(by_chunk(events)[0], speak(SENTENCE))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("one\x0190Ptwo", "one 90Ptwo"),  # an espeak command: pitch 90
        ("one\0two", "one two"),
        ("one \ud83d two", "one   two"),
        ("one\x1b\x7f\x9btwo", "one   two"),
    ],
)
def test_control_characters_are_spaces(text: str, plain: str) -> None:
    assert np.array_equal(speak(text), speak(plain))


@pytest.mark.parametrize("text", ["<break time='9s'/>", "<voice name='m3'>", "[[h@l'oU]]", "&lt;"])
def test_markup_is_read_out_as_text(text: str) -> None:
    assert len(speak(f"{text} hi")) > len(speak("hi")) + SAMPLE_RATE // 3
    assert len(speak(f"{text} hi")) < 8 * SAMPLE_RATE


@pytest.mark.parametrize(
    "text",
    [
        "a" * 2000,
        "9" * 500,
        "é\u0301\u0302" * 300,
        "[[a" * 300,
        "&#" * 300 + "x",
        "𒀀𐀀ᚠༀ" * 20,
        "🙂👩‍👩‍👧 ok " * 30,
        "، ؟ ۔ \u202e\ufeff\u200b x" * 30,
        "".join(map(chr, range(1, 700))),
    ],
)
def test_hostile_text_is_survived_and_changes_nothing(text: str) -> None:
    expected = speak(SENTENCE)
    samples = speak(text)
    assert len(samples) > 0
    assert np.abs(samples).max() <= 1
    assert np.array_equal(speak(SENTENCE), expected)


# While it speaks


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the library was asked to say, so far."""
    texts: list[str] = []
    say = espeak_library.Library.say

    def listening(library: espeak_library.Library, text: str, *rest: object) -> object:
        texts.append(text)
        return say(library, text, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(espeak_library.Library, "say", listening)
    yield texts


def test_sound_leaves_while_a_long_turn_is_still_to_be_said(said: list[str]) -> None:
    events = iter(ENGINE.start(plan(("Alice", LONG))))
    assert isinstance(next(events), Frame)
    assert len(said) == 1
    list(events)
    assert len(said) > 4
    assert "".join(said) == LONG


def test_the_first_sentence_is_said_by_itself_so_that_sound_begins_soon(said: list[str]) -> None:
    speak("Dr. Smith paid 3.50 dollars. He left. Nobody came.")
    assert said == ["Dr. Smith paid 3.50 dollars. ", "He left. Nobody came."]


def test_who_has_no_sound_yet_comes_before_who_is_ahead_of_the_listener(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody has listened so far, however long it takes until both wait.
    monkeypatch.setattr("engines.pulled.time", SimpleNamespace(monotonic=lambda: 0.0))
    line, never = espeak_library.load().line, threading.Event()
    ahead = iter(ENGINE.start(plan(("Alice", SENTENCE + "Ahead. " * 30))))
    next(ahead)
    new = ENGINE.start(plan(("Alice", "New.")))
    threads = [threading.Thread(target=list, args=(each,)) for each in (ahead, new)]
    with line.enter(never):
        for place, thread in enumerate(threads):
            thread.start()
            while len(line._waiting) < place + 1:
                thread.join(0.001)
    for thread in threads:
        thread.join(10)
    assert [text.split()[0] for text in said] == [SENTENCE.split()[0], "New.", "Ahead."]


def test_a_long_turn_is_cut_after_sentences_then_clauses_then_words(said: list[str]) -> None:
    speak("One. " + "One two. " * 26 + "three, " + "four " * 60 + "x" * 250)
    ends = [text[-7:] for text in said[1:]]
    assert ends[:2] == ["e two. ", "three, "]
    assert ends[2] == "r four "
    assert [len(text) for text in said[-2:]] == [240, 10]


def test_a_cut_between_sentences_cannot_be_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = speak(SENTENCE * 2)
    monkeypatch.setattr("engines.espeak.engine._PIECE", len(SENTENCE) + 5)
    cut = speak(SENTENCE * 2)
    assert len(cut) == len(whole)


def test_cancel_stops_the_library_in_the_middle_of_a_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speech = ENGINE.start(plan(("Alice", LONG)))
    seconds: list[float] = []
    say = espeak_library.Library.say

    def cancelling(library: espeak_library.Library, *rest: object) -> object:
        speech.cancel()
        pcm = say(library, *rest)  # type: ignore[arg-type]
        seconds.append(len(pcm) / library.rate)
        return pcm

    monkeypatch.setattr(espeak_library.Library, "say", cancelling)
    with pytest.raises(Cancelled):
        next(iter(speech))
    assert len(seconds) == 1
    assert seconds[0] < 1  # of 13


def test_another_threads_cancel_ends_a_speech_in_the_text_that_is_said(said: list[str]) -> None:
    speech = ENGINE.start(plan(("Alice", LONG * 100)))
    begun = 0

    def work(number: int) -> None:
        nonlocal begun
        if number:
            while not said:
                time.sleep(0.001)
            speech.cancel()
            begun = len(said)
        else:
            with pytest.raises(Cancelled):
                list(speech)

    in_threads(2, work)
    assert len(said) <= begun + 1


def test_cancel_ends_a_speech_that_waits_for_the_library() -> None:
    line = espeak_library.load().line
    speech = ENGINE.start(plan(("Alice", SENTENCE)))

    def work(number: int) -> None:
        if number:
            while not line._waiting:
                time.sleep(0.001)
            speech.cancel()
        else:
            with pytest.raises(Cancelled):
                next(iter(speech))

    with line.enter(threading.Event()):
        in_threads(2, work)
    assert len(speak("yes")) > 0


def test_four_jobs_at_once_sound_as_they_do_alone() -> None:
    texts = [LONG, "你好，今天天气很好。" * 30, "Сегодня хорошая погода. " * 20, SENTENCE * 9]
    alone = [speak(text, name) for text, name in zip(texts, NAMES, strict=False)]
    together: dict[int, Samples] = {}

    def work(number: int) -> None:
        together[number] = speak(texts[number], NAMES[number])

    in_threads(4, work)
    assert all(np.array_equal(together[number], alone[number]) for number in range(4))


def test_a_short_job_is_done_while_a_long_one_goes_on() -> None:
    long = ENGINE.start(plan(("Alice", LONG * 200)))
    begun = threading.Event()

    def work(number: int) -> None:
        if number:
            assert begun.wait(60)
            assert len(speak(SENTENCE)) > 0
            long.cancel()
        else:
            with pytest.raises(Cancelled):
                for _ in long:
                    begun.set()

    in_threads(2, work)


# Loading


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak_library, "_library", espeak_library.Library)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    engine = EspeakEngine()
    with pytest.raises(EngineError, match="pip install --force-reinstall espeakng-loader"):
        engine.load()
    assert not engine.ready


def test_a_library_that_does_not_load_is_reported_without_its_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(espeak_library, "_library", espeak_library.Library)
    monkeypatch.setattr("espeakng_loader.get_library_path", lambda: "/nowhere/libespeak-ng.so")
    with pytest.raises(EngineError, match="preview voice needs") as caught:
        EspeakEngine().start(plan(("Alice", SENTENCE)))
    assert "/nowhere" not in str(caught.value)


def test_missing_data_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, espeakng_loader\n"
        "espeakng_loader.get_data_path = lambda: sys.argv[1]\n"
        "from engines.espeak.engine import EspeakEngine\n"
        "from request.errors import EngineError\n"
        "try: EspeakEngine().load()\n"
        "except EngineError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("the preview voice needs the Python package espeakng-loader")


def test_nothing_of_a_cancelled_text_is_in_the_phonemes_of_the_next() -> None:
    library = espeak_library.load()
    cancelled = threading.Event()
    cancelled.set()
    text, pitch = "This is a text. The end of it is far.", (80, 120)
    with library.line.enter(threading.Event()):
        library.say(text, "gmw/en-US", "m3", pitch, 1, cancelled)
        assert library.phonemes("The old man", "gmw/en-US") == "ðɪ ˈoʊld mˈæn"
