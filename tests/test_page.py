"""The page in a real browser: types, hears, sees, stops, brings a voice, takes a file along."""

import base64
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Page, expect, sync_playwright

from config import Settings
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import FakeEngine
from tests.http_server import Server, server_process, serving
from tests.need import require_program
from tests.real_speech import PIPER, WHISPER, piper, require_packages
from tests.test_models_http import Slow, engines
from tests.test_verify import Ear
from tests.test_voice_uploads import recording

__all__ = ["engines"]  # the fixture
pytestmark = pytest.mark.process
TEXT = (
    "The first sentence is here. Then the second one comes along, a bit longer than it was. "
    "And the third ends it."
)
SECOND = TEXT[28:86]
expect.set_options(timeout=60_000)  # for events; what is shown for a while only is in `seen`
SEEN = """
globalThis.waves = () => {
    const { width, height } = document.getElementById("wave");
    const paint = document.getElementById("wave").getContext("2d");
    const { data } = paint.getImageData(0, 0, width, height);
    return data.reduce((sum, value, at) => sum + (at % 4 === 3 ? value : 0), 0);
};
globalThis.seen = { status: [], marks: [], waves: [], words: [], done: 0 };
globalThis.WebSocket = class extends WebSocket {
    constructor(...to) {
        super(...to);
        this.addEventListener("message", ({ data }) => {
            if (String(data).includes('"session.done"')) seen.done += 1;
        });
    }
};
addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
    const status = document.getElementById("status")?.textContent;
    if (status !== seen.status.at(-1)) seen.status.push(status);
    const mark = document.querySelector("#spoken mark")?.textContent;
    if (mark && mark !== seen.marks.at(-1)) {
        seen.marks.push(mark);
        seen.waves.push(waves());
    }
    const word = document.querySelector("#spoken mark b")?.textContent;
    if (word && word !== seen.words.at(-1)) seen.words.push(word);
}).observe(document, { subtree: true, childList: true, characterData: true }));
"""
"""Keeps every status, every lit word and every marked sentence, with how much of the waveform was
painted then, and counts the texts of which all has come."""
PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_process(tmp_path_factory.mktemp("page")) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = require_program("chromium", "chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        one = playwright.chromium.launch(executable_path=path, args=arguments, timeout=120_000)
        yield one
        one.close()


class Visit:
    """A page, and everything that it asked for, complained about or showed."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )
        page.set_default_timeout(60_000)
        page.add_init_script(SEEN)

    def open(self) -> None:
        self.page.goto(self.server.url)
        expect(self.page.locator("#voice option")).not_to_have_count(0)

    def seen(self, what: str) -> list[Any]:
        kept: list[Any] = self.page.evaluate(f"seen.{what}")
        return kept

    def hears(self, sentence: str) -> None:
        """Waits until it has come to that sentence."""
        self.page.wait_for_function("sentence => seen.marks.includes(sentence)", arg=sentence)


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 900, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    one = Visit(page, server)
    one.open()
    # Hearing every speech would take Whisper; the test of words has an ear of its own.
    page.evaluate("document.getElementById('light').checked = false")
    yield one
    context.close()
    hosts = (server.url, server.url.replace("http", "ws"), "data:", "blob:")
    assert all(url.startswith(hosts) for url in one.asked), one.asked
    assert one.complaints == []


def test_it_speaks_shows_the_sentence_moves_the_waveform_and_gives_the_file(visit: Visit) -> None:
    page = visit.page
    page.fill("#text", TEXT)
    page.select_option("#voice", "echo")
    page.click("#speak")
    expect(page.locator("#status")).to_have_text("Done.")
    waiting = "Waiting for the first sound ..."
    assert visit.seen("status") == ["Ready.", waiting, "Speaking ...", "Done."]
    assert visit.seen("marks") == ["The first sentence is here.", SECOND, "And the third ends it."]
    first, second, third = visit.seen("waves")
    assert 0 < first < second < third
    assert page.inner_text("#spoken") == TEXT
    expect(page.locator("#spoken mark")).to_have_count(0)
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "speech.wav"
    samples, rate = soundfile.read(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert rate == 24_000
    assert 5 < len(samples) / rate < 30
    assert abs(samples).max() > 0.05


def test_stop_ends_it_and_says_what_was_heard(visit: Visit) -> None:
    page = visit.page
    page.fill("#text", TEXT * 5)
    page.click("#speak")
    visit.hears(SECOND)
    page.click("#stop")
    expect(page.locator("#status")).to_contain_text("Stopped after: The first sentence is here.")
    expect(page.locator("#stop")).to_be_disabled()
    page.fill("#text", "Again.")
    page.click("#speak")
    expect(page.locator("#status")).to_have_text("Done.")


def test_pause_holds_the_sound_and_resume_goes_on(visit: Visit) -> None:
    page = visit.page
    page.fill("#text", TEXT * 5)
    page.click("#speak")
    visit.hears("The first sentence is here.")
    page.click("#pause")
    expect(page.locator("#pause")).to_have_text("Resume")
    page.wait_for_function("() => seen.done")  # a slow server takes its time between two sentences
    painted = 0
    while painted != (painted := page.evaluate("waves()")):  # what it has played and received
        page.wait_for_timeout(300)
    held = visit.seen("marks")
    page.wait_for_timeout(1000)
    assert (page.evaluate("waves()"), visit.seen("marks")) == (painted, held)
    page.click("#pause")
    page.wait_for_function("count => seen.marks.length > count", arg=len(held))
    page.click("#stop")


def test_a_voice_can_be_brought_chosen_and_deleted(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    (tmp_path / "me.wav").write_bytes(recording())
    (tmp_path / "bad.wav").write_text("no audio")
    page.click("summary")
    page.fill("#name", "Me")
    page.fill("#consent", "I agree")
    page.set_input_files("#sample", tmp_path / "me.wav")
    page.click("#upload")
    expect(page.locator("#status")).to_have_text("Me can speak now.")
    assert page.input_value("#voice") == "Me"
    page.fill("#text", "Hello.")
    page.click("#speak")
    expect(page.locator("#status")).to_have_text("Done.")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("#delete")
    assert page.input_value("#voice") == "Me"
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#delete")
    expect(page.locator("#status")).to_have_text("Me is deleted.")
    assert "Me" not in page.locator("#voice option").all_inner_texts()
    page.fill("#name", "Bad")
    page.fill("#consent", "I agree")
    page.set_input_files("#sample", tmp_path / "bad.wav")
    page.click("#upload")
    expect(page.locator("#status")).to_contain_text("audio_sample:")
    visit.complaints.clear()  # the browser itself notes a 400


def test_the_copied_command_makes_the_file(visit: Visit, tmp_path: Path) -> None:
    require_program("curl", "curl")
    page = visit.page
    page.fill("#text", "It's $5 `now`.")
    page.click("#curl")
    expect(page.locator("#status")).to_have_text("The command is in the clipboard.")
    command = page.evaluate("navigator.clipboard.readText()")
    subprocess.run(["bash", "-c", f"{command} -sf"], cwd=tmp_path, check=True)
    assert (tmp_path / "speech.mp3").read_bytes()[:2] == b"\xff\xf3"


def test_the_keyboard_is_enough(visit: Visit) -> None:
    page = visit.page
    page.focus("#text")
    seen = []
    for _ in range(8 + page.is_visible("#light")):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(({ id, tagName, innerText }) => id || (tagName === 'BODY' ? tagName : innerText))"
                "(document.activeElement)"
            )
        )
    folded = ["Bring a voice", "Write a recording down"]
    lights = ["light"] if page.is_visible("#light") else []
    wanted = ["voice", "speed", *lights, "speak", "curl", *folded, "The API", "BODY"]
    assert seen == wanted[: len(seen)]
    page.focus("#text")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_have_text("Done.")


def test_voices_are_grouped_and_the_preview_voice_says_what_it_is(visit: Visit) -> None:
    page = visit.page
    groups = page.locator("#voice optgroup")
    expect(groups).to_have_count(2)
    assert groups.evaluate_all("(all) => all.map((one) => one.label)") == [
        "Voices",
        "OpenAI's names",
    ]
    assert page.input_value("#voice") == "Alice"
    expect(page.locator("#engine")).to_contain_text("preview voice")
    page.click("summary")
    expect(page.locator("#no-cloning")).to_be_visible()


def test_everything_has_a_name_for_screen_readers(visit: Visit) -> None:
    page = visit.page
    page.click("summary")
    for role, name in (
        ("textbox", "Text"),
        ("combobox", "Voice"),
        ("slider", "Speed"),
        ("button", "Speak"),
        ("button", "Stop"),
        ("img", "Waveform of the speech so far"),
        ("textbox", "Name"),
        ("status", ""),
    ):
        expect(page.get_by_role(role, name=name, exact=bool(name)).first).to_be_visible()  # type: ignore[arg-type]


@pytest.fixture
def new_visit(browser: Browser) -> Iterator[Callable[[Server], Visit]]:
    """Opens the page of a server of this test."""
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"])

    def opened(server: Server) -> Visit:
        one = Visit(context.new_page(), server)
        one.open()
        return one

    yield opened
    context.close()


def test_the_words_of_the_sentence_light_up_as_they_are_spoken(
    new_visit: Callable[[Server], Visit], tmp_path: Path
) -> None:
    ear, engine = Ear(), FakeEngine(audio=lambda _: np.full(96_000, 0.5, np.float32))
    settings = Settings.from_env({"VIBEVOICE_VOLUME": str(tmp_path)})
    inference = VibeVoiceInference(settings, engine, settings.max_streams, verifier=ear)
    with serving(inference) as server:
        visit = new_visit(server)
        page = visit.page
        page.fill("#text", "\U0001f642 It *costs* $5 now. And that is all of it.")
        page.click("#speak")
        expect(page.locator("#status")).to_have_text("Done.")
        words = visit.seen("words")
        written = ["It", "costs", "$5", "now", "And", "that", "is", "all", "of", "it"]
        assert words == [word for word in written if word in words]  # a busy page skips some
        assert set(words) & set(written[:4]) and set(words) & set(written[4:]), words
        assert visit.seen("marks") == ["\U0001f642 It *costs* $5 now.", "And that is all of it."]
        assert len(ear.heard) == 2
        page.uncheck("#light")
        page.click("#speak")
        page.wait_for_function("() => seen.done === 2")
        assert len(ear.heard) == 2
        assert visit.complaints == []


def test_a_model_is_chosen_and_its_voices_are_shown(
    new_visit: Callable[[Server], Visit],
    engines: dict[str, Slow],
    tmp_path: Path,
) -> None:
    env = {"VIBEVOICE_VOLUME": str(tmp_path), "ENGINE": "espeak", "MODELS": "piper"}
    with serving(VibeVoiceInference(Settings.from_env(env), concurrency=4)) as server:
        visit = new_visit(server)
        page = visit.page
        options = page.locator("#model option")
        expect(options).to_have_text(["espeak", "piper"])
        assert page.input_value("#model") == "espeak"
        page.select_option("#model", "piper")
        expect(page.locator("#engine")).to_have_text(
            "This is a neural voice (Piper), and no VibeVoice."
        )
        assert page.locator("#voice optgroup").first.locator("option").all_inner_texts() == ["Joe"]
        page.fill("#text", "Hello.")
        page.click("#speak")
        expect(page.locator("#status")).to_have_text("Done.")
        assert [len(engines[name].speeches) for name in ("espeak", "piper")] == [0, 1]
        page.click("#curl")
        expect(page.locator("#status")).to_have_text("The command is in the clipboard.")
        assert '"model":"piper","voice":"Joe"' in page.evaluate("navigator.clipboard.readText()")
        page.select_option("#model", "espeak")
        expect(page.locator("#engine")).to_contain_text("preview voice")
        assert page.locator("#light-row").is_hidden()  # nothing here can hear
        assert visit.complaints == []


@pytest.mark.parametrize(("name", "width"), [("desktop", 1100), ("phone", 360)])
def test_it_fits_and_is_pictured(browser: Browser, server: Server, name: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 780})
    page = context.new_page()
    visit = Visit(page, server)
    page.goto(server.url)
    expect(page.locator("#voice option")).not_to_have_count(0)
    page.fill("#text", TEXT)
    page.click("#speak")
    visit.hears(SECOND)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.evaluate(
        "[...document.querySelectorAll('button')].filter((b) => b.offsetHeight < 44).length"
    )
    assert small == 0 or width > 400
    if os.environ.get("PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / f"page-{name}.png", full_page=True)
    context.close()


@pytest.mark.parametrize("width", [1100, 360])
def test_the_reference_is_readable_without_any_other_request(visit: Visit, width: int) -> None:
    page = visit.page
    page.set_viewport_size({"width": width, "height": 780})
    page.click("text=The API")
    speech = page.locator("#operations-default-create_speech_v1_audio_speech_post")
    speech.get_by_role("button").first.click()
    expect(speech).to_contain_text("Speaks a text")
    speech.get_by_role("tab", name="Schema").first.click()
    expect(speech).to_contain_text("response_format")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_server_with_keys_asks_for_one(browser: Browser, tmp_path: Path) -> None:
    with server_process(tmp_path, API_KEYS="the-key", HOST="127.0.0.1") as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        expect(page.locator("#key")).to_be_visible()
        page.fill("#key", "the-key")
        page.keyboard.press("Tab")
        expect(page.locator("#voice option")).not_to_have_count(0)
        page.fill("#text", "Hello.")
        page.click("#speak")
        expect(page.locator("#status")).to_have_text("Done.")
        context.close()


def test_the_page_may_fetch_nothing_from_elsewhere(server: Server) -> None:
    answer = server.call("GET", "/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "http" not in policy
    assert b"http" not in answer.body
    assert server.call("GET", "/page/../server.py").status == 404
    assert server.call("GET", "/page/index.html").status == 404
    assert json.loads(server.call("GET", "/openapi.json").body)["paths"].keys() == {
        "/v1/audio/speech",
        "/v1/audio/speech/plan",
        "/v1/audio/voices",
        "/v1/audio/voices/{name}",
        "/v1/models",
        "/v1/audio/models",
        "/v1/models/{name}",
        "/v1/models/{name}/load",
        "/v1/models/{name}/unload",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/capabilities",
        "/ping",
        "/health",
        "/metrics",
    }


@pytest.mark.models
def test_a_dropped_recording_is_written_down_with_its_speakers_and_can_be_copied(
    visit: Visit,
) -> None:
    require_packages(*WHISPER, *PIPER, "resemblyzer", "torch")
    said = "The first train leaves early in the morning."
    file = io.BytesIO()
    soundfile.write(file, piper(said), 24_000, format="WAV")
    page = visit.page
    page.click("summary >> text=Write a recording down")
    data = page.evaluate_handle(
        """data => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt());
            transfer.items.add(new File([bytes], "train.wav", { type: "audio/wav" }));
            return transfer;
        }""",
        base64.b64encode(file.getvalue()).decode(),
    )
    page.dispatch_event("#hear", "drop", {"dataTransfer": data})
    expect(page.locator("#told")).to_have_text("All of it is written down.")
    lines = page.get_by_role("list", name="Who said what, and when")
    expect(lines).to_have_text(f"00:00:00 A {said}", ignore_case=True)
    page.click("#copy-subtitles")
    expect(page.locator("#told")).to_have_text("The subtitles are in the clipboard.")
    cue = page.evaluate("navigator.clipboard.readText()")
    assert cue.startswith("1\n00:00:00,")
    assert cue.lower().endswith(f"\na: {said}\n".lower())
    page.press("#copy-text", "Enter")
    expect(page.locator("#told")).to_have_text("The text is in the clipboard.")
    text = page.evaluate("navigator.clipboard.readText()")
    assert text.lower() == f"A: {said}".lower()


def test_a_file_that_is_no_recording_is_said_to_be_none(visit: Visit) -> None:
    page = visit.page
    page.click("summary >> text=Write a recording down")
    upload: Any = {"name": "a.wav", "mimeType": "audio/wav", "buffer": b"no audio"}
    page.set_input_files("#recording", upload)
    page.press("#hear button[type=submit]", "Enter")
    expect(page.locator("#told")).to_contain_text("file: the recording is not readable as audio")
    expect(page.locator("#copy-text")).to_be_disabled()
    visit.complaints.clear()  # the browser reports every 400
