"""How long a text should take."""

import threading

import pytest

from speech.pace import SECONDS_PER_CHARACTER, Pace, weight

TEXT = "a few words that are said at an ordinary pace by somebody"


def test_a_syllable_character_weighs_as_much_as_four_letters() -> None:
    assert weight("hello, you!") == 9
    assert weight("你好。") == 8
    assert weight("こんにちは") == 20
    assert weight("") == 0


def test_an_unheard_voice_is_expected_to_read_at_150_words_a_minute() -> None:
    assert Pace(3).expected("A", TEXT) == pytest.approx(SECONDS_PER_CHARACTER * weight(TEXT))


def test_each_voice_is_followed_by_itself() -> None:
    pace = Pace(3)
    usual = pace.expected("slow", TEXT)
    for _ in range(100):
        pace.learn("slow", TEXT, usual * 2)
    assert pace.expected("slow", TEXT) == pytest.approx(usual * 2, rel=0.1)
    assert pace.expected("other", TEXT) == pytest.approx(usual)


@pytest.mark.parametrize(("factor", "odd"), [(0.3, True), (0.4, False), (2.9, False), (3.1, True)])
def test_odd_is_what_lies_outside_the_tolerance(factor: float, odd: bool) -> None:
    pace = Pace(3)
    assert pace.is_odd("A", TEXT, pace.expected("A", TEXT) * factor) is odd


def test_a_few_words_are_never_odd() -> None:
    assert not Pace(3).is_odd("A", "Hm, well.", 60)


def test_memory_of_voices_is_bounded_and_threads_may_share_it() -> None:
    pace = Pace(3)

    def learn(start: int) -> None:
        for number in range(start, start + 1000):
            pace.learn(str(number), TEXT, 1)

    threads = [threading.Thread(target=learn, args=(start,)) for start in (0, 500, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pace._heard) == 1000
