"""How long a text should take."""

import threading
import time

import pytest

from text.pace import SECONDS_PER_CHARACTER, Pace, weight

TEXT = "a few words that are said at an ordinary pace by somebody"


def test_a_character_of_chinese_weighs_four_letters_of_korean_three_and_of_kana_two() -> None:
    assert weight("hello, you!") == 9
    assert weight("你好。") == 8
    assert weight("こんにちは") == 10
    assert weight("안녕") == 6
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


# The seconds are what the preview voice took.
NUMBERS = {
    "Call 01712345678, 01718765432, 08001112223, 01719998887 or 08004445556.": 16.9,
    "Ring +44 20 7946 0958 or (555) 010-4477 before 17:30 on 2031-04-09.": 14.9,
    "Open 07:45-18:30, closed on 24/12/2029, 31/12/2029 and 01/01/2030.": 13.1,
    "It cost 1,234,567.89 in 1998, 2,345,678.12 in 2003 and 9,876,543.21 in 2017.": 19.1,
    "Serial 7QX4-93KL-2ZT8-55MV, batch 00481516, part XR-7B2.": 10.0,
    "UUID 9f86d081-884c-7d65-9a2f-eaa0c55ad015.": 9.1,
    "Then 3 x + 7 = 22, so x = 5 ± 0.25, and y ≤ 4 × 10.": 9.1,
    "Mix 2.5 kg at 180 °C for 45 min, 60% of 12 ml, 5 GB at 3.2 GHz.": 9.0,
    "The FBI, the BBC, IBM, HTML, XML, DNS, the USA, TCP and a VPN.": 7.3,
    "Ask 192.168.10.254, 10.0.0.17 or jo.b@mail.example.org/a/7.": 11.4,
    "Es waren 21.734 Gäste am 27.11.2024 um 19:45 Uhr, 38% mehr als 1997.": 14.3,
    "电话是13800138000,价格是4567元,日期是2024年11月27日。": 10.6,
    "वह 1987 में 45 किताबें लेकर आए और 2350 रुपये दिए।": 5.9,
    "Louis XIV, Henry VIII and Pius XII met in room CCCXL by chance.": 5.8,
    "The war of 1914 took 16,000,000 people, 5,000,000 of them in 1916.": 6.1,
}


@pytest.mark.parametrize(("text", "seconds"), NUMBERS.items())
def test_numbers_are_expected_to_take_what_their_words_take(text: str, seconds: float) -> None:
    assert Pace(3).expected("A", text) == pytest.approx(seconds, rel=0.35)
    assert not Pace(3).is_odd("A", text, seconds * 0.75)
    assert not Pace(3).is_odd("A", text, seconds * 1.35)


@pytest.mark.parametrize(("text", "seconds"), NUMBERS.items())
def test_numbers_that_loop_or_stop_are_odd(text: str, seconds: float) -> None:
    assert Pace(3).is_odd("A", text, seconds * 4.2)
    assert Pace(3).is_odd("A", text, seconds / 4.2)


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("7", 6),
        ("5,000,000", 18 - 8),
        ("5000", 24 - 12),
        ("2024", 24),
        ("3.14", 18 + 4),
        ("-5", 6 + 5),
        ("50%", 12 - 4 + 6),
        ("IBM", 12),
        ("U.S.A.", 3 + 3 + 2 * 4),
        ("XR-7", 8 + 6),
        ("4F9K", 24 - 4),
        ("5 kg", 6 + 1 + 8),
        ("S-M-I-T-H", 5 * 4),
        ("docs.example.com", 14 + 2 * 4),
        ("jo@x.org", 6 + 6 + 4 + 3),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", 6),
        ("США", 12),
    ],
)
def test_a_text_weighs_what_is_said_of_it(text: str, letters: int) -> None:
    assert weight(text) == letters


@pytest.mark.parametrize(
    "text",
    [
        "It's the old man's, isn't it? They'd say we'll never know, and I'd agree.",
        "STOP WHERE YOU ARE AND DO NOT TOUCH THE RED BOX!",
        "NASA, NATO and UNESCO sent people. What I saw was a dream.",
        "L'homme qu'elle aime est d'accord.",
        "Był już późny wieczór.",
        "One --- two ... three - four -- five (six), [seven]: eight; nine? No!",
        "",
    ],
)
def test_letters_weigh_what_they_always_did(text: str) -> None:
    assert weight(text) == sum(map(str.isalnum, text)) + text.count(" ")


def test_a_drawn_row_of_symbols_is_not_said_one_by_one() -> None:
    assert weight("=" * 80) == weight("=") == 6
    assert weight("C++") == 1 + 3 + 6


@pytest.mark.parametrize(("text", "most"), [("7", 4.4), ("OK", 4.6), ("Hm, well.", 5.1)])
def test_a_few_words_may_take_their_time_but_not_any(text: str, most: float) -> None:
    assert not Pace(3).is_odd("A", text, 0.1)
    assert not Pace(3).is_odd("A", text, most)
    assert Pace(3).is_odd("A", text, most + 0.2)


def test_from_few_words_to_many_the_longest_time_grows_evenly() -> None:
    pace = Pace(3)
    assert not pace.is_odd("A", "a" * 39, 7.7)
    assert pace.is_odd("A", "a" * 39, 7.75)
    assert not pace.is_odd("A", "a" * 40, 7.79)
    assert pace.is_odd("A", "a" * 40, 7.81)


def test_a_few_words_teach_no_pace() -> None:
    pace = Pace(3)
    for _ in range(100):
        pace.learn("A", "OK", 2.0)
    assert pace.expected("A", TEXT) == Pace(3).expected("A", TEXT)


def test_spelled_capitals_teach_no_slow_pace() -> None:
    pace, prose = Pace(3), Pace(3).expected("A", TEXT)
    for _ in range(100):
        pace.learn("A", "The FBI, the BBC, IBM, HTML, XML, DNS, the USA, TCP and a VPN.", 7.3)
    assert pace.expected("A", TEXT) == pytest.approx(prose, rel=0.25)


@pytest.mark.parametrize(
    "unit", ["1", "10", "1,000", "X-", "1.", "=", "a'", "USA ", "-5", "1A", "x"]
)
def test_weighing_takes_time_in_proportion_to_the_text(unit: str) -> None:
    def seconds(count: int) -> float:
        text = unit * count
        times = []
        for _ in range(3):
            start = time.process_time()
            weight(text)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(40_000) < 3 * 4 * max(seconds(10_000), 0.001)


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
