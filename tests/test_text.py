"""What is spoken of what was written."""

import time
from collections.abc import Callable

import pytest

from request.errors import RequestError
from text.chunks import Limits, TextPlan, plan_text
from text.reading import read
from text.sentences import sentences


def spoken(source: str, pronunciations: dict[str, str] | None = None) -> str:
    return " / ".join(passage.text.text for passage in read(source, pronunciations).passages)


def pauses(source: str) -> list[int | None]:
    return [passage.pause_ms for passage in read(source).passages]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("a\u00a0b\u2009c\td", "a b c d"),
        ("zero\u200bwidth, bom\ufeff, soft\u00adhyphen", "zerowidth, bom, softhyphen"),
        ("cafe\u0301 \u1112\u1161\u11ab", "café 한"),
        ("½ of 5 m² at 20 °C ™", "½ of 5 m² at 20 °C ™"),
        ("half a pair \ud800 here", "half a pair here"),
    ],
)
def test_spaces_and_letters_are_normalised(written: str, said: str) -> None:
    assert spoken(written) == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("# Title", "Title."),
        ("## Is it? ##\nYes.", "Is it? / Yes."),
        ("Some *em*, **bold**, ***both***, _em_ and `code`.", "Some em, bold, both, em and code."),
        ("2*3*4 and snake_case_name and **un**likely", "2*3*4 and snake_case_name and unlikely"),
        ("- one\n- two\n* three.", "one. two. three."),
        ("| a | b |\n|---|:-:|\n| 1 | 2 |", "a, b. 1, 2."),
        ("> quoted\n> on", "quoted on"),
        ("one\n\n---\n\ntwo", "one / two"),
        ("See [the docs](https://x.org/a_(b)) and ![a cat](c.png).", "See the docs and a cat."),
        ("[laughs](quietly, away) Hi", "[laughs](quietly, away) Hi"),
        ('[a](b "title") [c](<d>)', "a c"),
        ("Proven [1], again [2, 3-4].", "Proven, again."),
        ("~~gone~~ kept", "gone kept"),
        ("Scene one.\n\n~~~\n\nScene two.", "Scene one. / Scene two."),
        (
            "- An item that goes on to the\n  Paris office.",
            "An item that goes on to the Paris office.",
        ),
        ("| Fast | ✅ | ❌ |", "Fast, yes, no."),
        ("Use *, ** or _", "Use *, ** or _"),
        ("- [ ] open\n- [x] done", "open. done."),
        ("1. First\n2. Second", "1. First. 2. Second."),
        ("[Alice]: Hello.", "[Alice]: Hello."),
        ('[docs]: https://x.org/a "Docs"\nText.', "Text."),
        ("*Emphasis that is\nwrapped* goes on.", "Emphasis that is wrapped goes on."),
        (r"1 \* 2 and \_x\_", "1 2 and x"),
    ],
)
def test_markdown_loses_its_marks_and_keeps_its_words(written: str, said: str) -> None:
    assert spoken(written) == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("<p>One</p><p>Two<br/>three</p>", "One / Two three"),
        ("<b>Bold</b> &amp; <span class='x'>plain</span>", "Bold & plain"),
        ("a < b and c > d, x<y", "a < b and c > d, x<y"),
        ("if (a<b && c>d) x <b and c> d", "if (a<b && c>d) x <b and c> d"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a, b"),
        ("<!DOCTYPE html><label>Name</label><b>Bo</b>", "Name Bo"),
        ("<!-- no --><script>no()</script>yes<style>no{}</style>", "yes"),
        ("<speak>Hi <prosody rate='slow'>there</prosody></speak>", "Hi there"),
    ],
)
def test_html_and_ssml_lose_their_tags(written: str, said: str) -> None:
    assert spoken(written) == said


def test_fenced_code_is_left_out_with_a_warning() -> None:
    reading = read("Before.\n```python\nprint(1)\n```\nAfter.")
    assert [passage.text.text for passage in reading.passages] == ["Before.", "After."]
    assert reading.warnings == ("text: fenced code is not read aloud and was left out",)


def test_footnotes_are_left_out_with_a_warning() -> None:
    reading = read("It holds.[^1] So it does.\n\n[^1]: As was shown.\n[^b]: And again.")
    assert [passage.text.text for passage in reading.passages] == ["It holds. So it does."]
    assert reading.warnings == ("text: footnotes are not read aloud and were left out",)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Go to https://www.example.com/a?b=1#c.", "Go to example dot com."),
        ("Write to <jo@ex.org> or mailto:a@b.co.", "Write to jo at ex dot org or a at b dot co."),
        ("见https://a.cn/x。好", "见a dot cn. 好"),
        ("Docs: https://a.org/x\nCode: https://b.org/y", "Docs: a dot org. Code: b dot org"),
        ("(http://a.b.org)", "(a dot b dot org)"),
        ("Mail jo.b@ex.co.uk!", "Mail jo dot b at ex dot co dot uk!"),
        ("commit d41d8cd98f00b204e9800998ecf8427e done", "commit done"),
    ],
)
def test_links_are_read_as_names(written: str, said: str) -> None:
    assert spoken(written) == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("“Curly” ‘quotes’ «here» it’s", '"Curly" \'quotes\' "here" it\'s'),
        ("wait — what – no--yes", "wait, what, no, yes"),
        ("pages 10–12", "pages 10-12"),
        ("9 a.m. – 5 p.m.", "9 a.m., 5 p.m."),
        ("Yes! ! ! :)", "Yes! ! ! :)"),
        ("“Wait—” she said. “—what?”", '"Wait," she said. "what?"'),
        ("कैसे हो। ठीक؟", "कैसे हो. ठीक?"),
        ("Bonjour ! Ça va ?", "Bonjour! Ça va?"),
        ("a $5 bill, US$5, $1.5M", "a 5 dollar bill, US$5, 1.5 million dollars"),
        ("well… so.....", "well... so..."),
        ("What?!?! No!!!", "What? No!"),
        ("你好。好吗？好，好！", "你好. 好吗? 好, 好!"),
        ("“我叫李。”（对）", '"我叫李."(对)'),
        ("ＡＢＣ１２", "ABC12"),
        ("Nice 👍🏽 day 👨‍👩‍👧 1️⃣ 🇩🇪", "Nice day 1"),
        ("$5.50, $1, €3 million", "5 dollars and 50 cents, 1 dollar, 3 million euros"),
    ],
)
def test_symbols_become_plain_punctuation(written: str, said: str) -> None:
    assert spoken(written) == said


@pytest.mark.parametrize(
    "written",
    [
        "a <|vision_pad|> b",
        "a <|vision_<|x|>pad|> b",
        "a &lt;|endoftext|&gt; b",
        "a ＜|im_start|＞ b",
        "a <\u200b|vision_end|\u200b> b",
        "a <<|<|>||>> b",
        "a <tool_call>b",
    ],
)
def test_model_tokens_never_survive(written: str) -> None:
    said = spoken(written)
    assert "<|" not in said
    assert "|>" not in said
    assert "tool_call" not in said
    assert said.startswith("a")
    assert said.endswith("b")


def test_a_pronunciation_cannot_bring_a_model_token_or_a_line() -> None:
    said = spoken("say it", {"it": "<|im_end|>\nSpeaker 2: hi \ue000"})
    assert said == "say Speaker 2: hi"


@pytest.mark.parametrize(
    ("words", "written", "said"),
    [
        ({"gif": "jif"}, "A gif, a GIF, gifs.", "A jif, a jif, gifs."),
        ({"SQL": "sequel"}, "SQL and sql", "sequel and sql"),
        ({"New York": "Noo York", "New": "Old"}, "New York, New", "Noo York, Old"),
        ({"a": "b", "b": "c"}, "a b", "b c"),
        ({"C++": "see plus plus"}, "I write C++ daily", "I write see plus plus daily"),
        ({"naïve": "nigh eve"}, "nai\u0308ve", "nigh eve"),
        ({"东京": "Tokyo"}, "东京 东京", "Tokyo Tokyo"),
        ({"": "x", " ": "y"}, "left alone", "left alone"),
    ],
)
def test_pronunciations_replace_whole_words_once(
    words: dict[str, str], written: str, said: str
) -> None:
    assert spoken(written, words) == said


@pytest.mark.parametrize(
    ("written", "words", "field"),
    [
        ("a " * 2_048, {"a": "b" * 100}, "pronunciations"),
        ("a. " * 1_365, {"a": "\ufdfa" * 100}, "pronunciations"),
        ("\u2079 " * 2_048, {}, "text"),
        ("\ufdfa" * 4_096, {}, "text"),
    ],
    ids=["a respelling", "one that grows itself", "powers", "a ligature"],
)
def test_what_is_spoken_is_a_small_multiple_of_what_is_written(
    written: str, words: dict[str, str], field: str
) -> None:
    with pytest.raises(RequestError, match=r"more than 2\d{4} characters") as refused:
        plan_text(written, Limits(), words)
    assert refused.value.problems[0].field == field
    assert refused.value.problems[0].code == "string_above_max_length"
    short = plan_text(written[:4], Limits(), words)  # has room for 4,016
    assert 4 < short.characters <= 4_016


def test_respellings_that_share_their_beginnings_cost_no_more_than_others() -> None:
    alike = {"\u5b57" * 97 + f"{number:03d}": "x" for number in range(499)} | {"\u5b57Z": "x"}
    apart = {f"\u5b57{number:03d}": "x" for number in range(500)}

    def seconds(words: dict[str, str]) -> float:
        start = time.process_time()
        read("\u5b57" * 50_000, words)
        return time.process_time() - start

    # Without sharing it was some thirty times as long.
    assert any(seconds(alike) < 5 * seconds(apart) for _ in range(3))
    nested = {"\u5b57" * length: str(length) for length in range(1, 101)}
    assert spoken("\u5b57" * 230, nested) == "10010030"


def test_planning_ends_where_its_job_does() -> None:
    class Stop(Exception):
        pass

    steps = 0

    def stop_at(last: int) -> Callable[[], None]:
        def check() -> None:
            nonlocal steps
            steps += 1
            if steps == last:
                raise Stop

        return check

    text = "One. [pause:1s] " * 50
    plan_text(text, Limits(), {}, check=stop_at(0))
    all_steps, steps = steps, 0
    assert all_steps > 50
    with pytest.raises(Stop):
        plan_text(text, Limits(), {}, check=stop_at(all_steps // 2))
    assert steps == all_steps // 2


@pytest.mark.parametrize(
    ("tag", "milliseconds"),
    [
        ("[pause]", 1000),
        ("[pause:500ms]", 500),
        ("[pause 1.5s]", 1500),
        ("[pause=2]", 2000),
        ("[Pause: .5 s]", 500),
        ("[pause:1500]", 1500),
        ("[pause:99s]", 10_000),
        ('<break time="250ms"/>', 250),
        ("<break time='3s'></break>", 3000),
        ("<break/>", 500),
        ('<break strength="x-strong" />', 1000),
        ('<break strength="none"/>', 0),
        ("[pause:4s] [pause:9s]", 10_000),
    ],
)
def test_pause_tags_are_silence_and_not_speech(tag: str, milliseconds: int) -> None:
    source = f"before {tag} after"
    assert spoken(source) == "before / after"
    assert pauses(source) == [milliseconds, None]


@pytest.mark.parametrize("tag", ["[pauses]", "[pause:]x", "[a pause]", "[laughs]", "pause:500ms"])
def test_other_brackets_are_words(tag: str) -> None:
    assert pauses(f"before {tag} after") == ([None] if tag != "[pause:]x" else [1000, None])


def test_a_pause_before_the_first_word_leads() -> None:
    reading = read("[pause:2s] Hello.")
    assert (reading.lead_ms, len(reading.passages)) == (2000, 1)


@pytest.mark.parametrize(
    "nothing", ["...", "👍👍", "<p></p>", "[pause]", "\u200b", "—", "```\nx\n```"]
)
def test_text_without_a_word_is_a_silence_that_is_said(nothing: str) -> None:
    reading = read(nothing)
    assert reading.passages == ()
    assert reading.lead_ms == {"[pause]": 1000}.get(nothing, 300)
    assert reading.warnings[-1].startswith("text: holds nothing that can be spoken")


def test_lines_join_and_headings_stop() -> None:
    assert spoken("A heading\nThis is a line\nthat goes on.") == (
        "A heading. This is a line that goes on."
    )
    assert spoken("一行\n二行") == "一行. 二行"
    assert spoken("字" * 20 + "\n二行") == "字" * 20 + "二行"
    assert spoken("well-\nknown") == "well-known"
    wrapped = (
        "She looked up from her book and saw that the whole\n"
        "Tower of London had gone, and with it the bridge,\n"
        "Westminster too."
    )
    assert ". T" not in spoken(wrapped)
    long_line = "word " * 14 + "end"
    assert spoken(f"{long_line}\nNext line.") == f"{long_line} Next line."


def script(source: str) -> list[tuple[int, str]]:
    return [(passage.speaker, passage.text.text) for passage in read(source).passages]


def test_scripts_keep_every_line_and_its_speaker() -> None:
    source = (
        "An opening line.\nSpeaker 3: Hi.\nstill me\n\nSpeaker 1： **Yes?**\n"
        "**Speaker 3:** No.\nSpeaker 2:\nspeaker 1: End."
    )
    assert script(source) == [
        (0, "An opening line."),
        (0, "Hi. still me"),
        (1, "Yes?"),
        (0, "No."),
        (1, "End."),
    ]
    assert read(source).speakers == (3, 1)


@pytest.mark.parametrize(
    "label",
    [
        "Speaker 2:",
        "speaker 2 :",
        "**Speaker 2:**",
        "**Speaker 2**:",
        "[Speaker 2]",
        "[Speaker 2]:",
        "1. Speaker 2:",
        "Speaker 2 (Bob):",
        "[00:12] Speaker 2:",
        "SPEAKER_02:",
        "> Speaker 2:",
        "- Speaker 2:",
    ],
)
def test_labels_are_known_in_all_the_ways_that_people_write_them(label: str) -> None:
    assert script(f"Speaker 1: One.\n{label} Two.") == [(0, "One."), (1, "Two.")]
    assert read(f"Speaker 1: One.\n{label} Two.").speakers == (1, 2)


def test_five_speakers_are_refused() -> None:
    source = "\n".join(f"Speaker {number}: Hi." for number in range(5))
    problem = r"^text: has lines of 5 speakers \(allowed: at most 4\)$"
    with pytest.raises(RequestError, match=problem):
        read(source)


def test_an_empty_line_between_speakers_is_no_paragraph_but_inside_a_speech_it_is() -> None:
    passages = read("Speaker 1: One.\n\nSpeaker 2: Two.\n\nThree.").passages
    assert [passage.ends_paragraph for passage in passages] == [False, True, False]


def plan(source: str, **limits: int) -> TextPlan:
    return plan_text(source, Limits(**limits))


def texts(text_plan: TextPlan) -> list[str]:
    return [" ".join(turn.text for turn in chunk.turns) for chunk in text_plan.chunks]


def test_a_short_text_is_one_chunk_that_spans_it() -> None:
    (chunk,) = plan("  **Hello** there.  \n").chunks
    assert (chunk.text_start, chunk.text_end, chunk.pause_ms) == (2, 18, 0)
    assert chunk.turns[0].text == "Hello there."


def test_spans_point_into_the_callers_own_text() -> None:
    source = "One &amp; *two*. [pause:1s] **Three** 👍 four.\n\n[pause:2s]Speaker"
    spans = [source[chunk.text_start : chunk.text_end] for chunk in plan(source).chunks]
    assert spans == ["One &amp; *two*. [pause:1s]", "**Three** 👍 four.\n\n[pause:2s]", "Speaker"]


def test_a_tag_belongs_to_the_chunk_that_it_ends() -> None:
    for source in ('One <break time="1s"/>two.', "One [pause:1s]two.", "One[pause:1s] two."):
        spans = [source[chunk.text_start : chunk.text_end] for chunk in plan(source).chunks]
        assert spans[1] == "two."


def test_chunks_are_filled_with_whole_sentences() -> None:
    sentence = "This sentence has exactly fifty characters, I say."
    assert len(sentence) == 50
    made = texts(plan(" ".join([sentence] * 10), max_chunk_chars=160, min_last_chunk_chars=50))
    assert made == [" ".join([sentence] * 3)] * 3 + [sentence]


def test_a_long_sentence_is_cut_at_clauses_then_words_then_anywhere() -> None:
    clauses = "first part of it; " + "second part, " * 5 + "third part goes on and on"
    limits = {"max_chunk_chars": 100, "min_last_chunk_chars": 0}
    assert texts(plan(clauses, **limits)) == [
        "first part of it; second part, second part, second part, second part, second part,",
        "third part goes on and on",
    ]
    words = texts(plan("word " * 50, **limits))
    assert words[:2] == ["word " * 19 + "word,"] * 2
    assert [len(text) for text in texts(plan("x" * 250, **limits))] == [100, 100, 50]


def test_a_tag_is_never_cut() -> None:
    source = "x" * 80 + " [a rather long stage direction here] " + "y" * 80
    made = texts(plan(source, max_chunk_chars=100, min_last_chunk_chars=0))
    assert [text for text in made if "[" in text or "]" in text] == [
        "[a rather long stage direction here]"
    ]


def test_a_short_tail_is_balanced_with_the_chunk_before() -> None:
    sentence = "This sentence has exactly fifty characters, I say."
    source = " ".join([sentence] * 6) + " Short tail."
    made = texts(plan(source, max_chunk_chars=310, min_last_chunk_chars=150))
    assert [len(text) for text in made] == [152, 164]
    assert " ".join(made) == source


def test_a_tail_behind_one_long_sentence_takes_a_part_of_it() -> None:
    source = "word " * 19 + "word. Tail."
    made = texts(plan(source, max_chunk_chars=100, min_last_chunk_chars=40))
    assert all(40 <= len(text) <= 100 for text in made)
    assert " ".join(made) == "word " * 9 + "word, " + "word " * 9 + "word. Tail."


def test_paragraph_ends_pause_longer_and_chunks_of_a_paragraph_shorter() -> None:
    paragraph = "This sentence has exactly fifty characters, I say. " * 4
    pieces = plan(f"{paragraph}\n\n{paragraph}{paragraph}", max_chunk_chars=300).chunks
    assert [chunk.pause_ms for chunk in pieces] == [600, 40, 0]


def test_paragraphs_that_can_stand_alone_keep_their_pauses() -> None:
    paragraph = "This is a paragraph of sixty characters, or a few more of it."
    chunks = plan("\n\n".join([paragraph] * 3)).chunks
    assert [chunk.pause_ms for chunk in chunks] == [600, 600, 0]


def test_a_short_paragraph_stays_with_the_next_as_a_turn_of_its_own() -> None:
    (chunk,) = plan("Chapter one\n\nIt was late.").chunks
    assert [turn.text for turn in chunk.turns] == ["Chapter one", "It was late."]


def test_a_pause_ends_its_chunk_and_has_the_asked_length() -> None:
    chunks = plan("One. [pause:250ms] Two.\n\n[pause:2s] Three. [pause:3s]").chunks
    assert [chunk.pause_ms for chunk in chunks] == [250, 2000, 3000]


def test_long_speeches_become_turns_that_keep_their_speaker() -> None:
    sentence = "This sentence has exactly fifty characters, I say. "
    chunks = plan(f"Speaker 2: {sentence * 30}\nSpeaker 1: Done.").chunks
    turns = [turn for chunk in chunks for turn in chunk.turns]
    assert max(len(turn.text) for turn in turns) <= 300
    assert {turn.speaker for turn in turns[:-1]} == {0}
    assert turns[-1].speaker == 1


def test_a_long_respelling_leaves_no_span_empty() -> None:
    source = "x and x, then x."
    chunks = plan_text(source, Limits(100, 0), {"x": ("word " * 20).strip()}).chunks
    assert all(chunk.text_start < chunk.text_end for chunk in chunks)


@pytest.mark.parametrize(
    "said",
    [
        ["Ms. Weber of Ft. Bragg came.", "She left."],
        ["See Para. 3, App. 2 and chap. 4.", "Then go on."],
        ["Der 2. Weltkrieg und das 19. Jahrhundert.", "Dann kam der Friede."],
        ["I am 5.", "Then I left."],
        ["Jeopardy! was on.", "We watched."],
        ["hi!", "how are you?", "i am fine."],
    ],
)
def test_a_sentence_ends_where_a_reader_ends_it(said: list[str]) -> None:
    text = " ".join(said)
    assert [text[start:end] for start, end in sentences(text)] == said
