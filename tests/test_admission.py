"""Who is spoken when: a socket's utterance keeps its seat, and nobody keeps one for nothing."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from api.admission import AdmissionControl, Seat
from api.errors import ApiError
from config import Settings
from engines.base import Plan
from request.errors import EngineError
from synthesis.inference import VibeVoiceInference
from tests.fake_engine import CAPABILITIES, FakeEngine, HeldEngine, HeldSpeech, ramp
from tests.http_server import Answer, Server, server_process, serving, wait_for
from tests.test_socket import SECOND, Talk, run, steady, talking, until
from tests.test_voice_uploads import recording

LONG = "A reader who does not read takes all the time that there is. " * 60
Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server that speaks one answer at a time."""
    with ExitStack() as stack:

        def one(engine: FakeEngine, **env: str) -> Server:
            env = {"VIBEVOICE_VOLUME": str(tmp_path), "MAX_STREAMS": "1", **env}
            settings = Settings.from_env(env)
            inference = VibeVoiceInference(settings, engine, settings.max_streams)
            return stack.enter_context(serving(inference))

        yield one


def seats_of(server: Server) -> tuple[int, int]:
    """How many are taken, and how many wait."""
    facts = server.call("GET", "/v1/capabilities").json
    return facts["slots_taken"], facts["queue_depth"]


def words(engine: FakeEngine) -> list[str]:
    """What the engine was given to speak, in order."""
    return [plan.chunks[0].turns[0].text for plan in engine.plans]


async def first_sentence(talk: Talk) -> None:
    """Of an utterance that goes on."""
    await talk.say("input.text", text="One one. Two ")
    assert (await talk.until("audio.done"))["sentence_index"] == 0


def asked(server: Server, answers: list[Answer], **fields: object) -> threading.Thread:
    thread = threading.Thread(target=lambda: answers.append(server.speak(**fields)))
    thread.start()
    return thread


def test_an_utterance_is_spoken_to_its_end_before_a_slow_reader_who_waits(tmp_path: Path) -> None:
    async def scenario(server: Server, reader: socket.socket) -> None:
        async with talking(server) as talk:
            await first_sentence(talk)
            reader.connect(("127.0.0.1", server.port))
            await asyncio.to_thread(ask_without_reading, server, reader)
            refused = await asyncio.to_thread(server.speak)
            assert (refused.status, refused.error["code"]) == (503, "queue_full")
            await talk.say("input.text", text="two. Three three. Four ")
            for index in (1, 2):
                assert (await talk.until("audio.done"))["sentence_index"] == index
                assert seats_of(server) == (1, 1)  # the reader still waits
            await talk.say("input.done")
            assert (await talk.until("session.done"))["total_sentences"] == 4
        assert await asyncio.to_thread(reader.recv, 15, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"

    with (
        server_process(tmp_path, MAX_STREAMS="1", MAX_QUEUE="1") as server,
        socket.socket() as reader,
    ):
        reader.settimeout(120)
        run(lambda: scenario(server, reader))


def ask_without_reading(server: Server, reader: socket.socket) -> None:
    """Returns once the reader waits for a seat."""
    body = f'{{"model": "tts-1", "voice": "Alice", "input": "{LONG}", "response_format": "pcm"}}'
    head = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    reader.sendall(f"POST /v1/audio/speech HTTP/1.1\r\n{head}\r\n\r\n{body}".encode())
    wait_for(lambda: seats_of(server) == (1, 1))


def test_who_waits_is_spoken_directly_after_the_utterance(start: Start) -> None:
    engine = FakeEngine(steady)
    server = start(engine)
    answers: list[Answer] = []

    async def scenario() -> None:
        async with talking(server) as talk:
            await first_sentence(talk)
            waiting = asked(server, answers, input="Waits.")
            await until(lambda: seats_of(server) == (1, 1))
            await talk.say("input.text", text="two. Three ")
            await talk.until("audio.done")
            await talk.say("input.text", text="Later.", context_id="next")
            await talk.say("input.done", context_id="next")
            await talk.say("input.done")
            await talk.until("session.done")
            await talk.until("session.done")
            waiting.join()

    run(scenario)
    assert words(engine) == ["One one.", "Two two.", "Three", "Waits.", "Later."]
    assert [answer.status for answer in answers] == [200]


def test_an_utterance_without_text_lets_others_speak_and_comes_back_before_them(
    start: Start,
) -> None:
    engine = HeldEngine(steady)
    server = start(engine, MAX_QUEUE="1", UTTERANCE_IDLE_SEC="0.2")
    answers: list[Answer] = []

    async def scenario() -> None:
        async with talking(server) as talk:
            engine.permits.release(9)  # eight frames and the end: one sentence
            await first_sentence(talk)
            await until(lambda: seats_of(server) == (0, 0))
            others = [asked(server, answers, input="First.")]
            await until(lambda: seats_of(server) == (1, 0))
            others.append(asked(server, answers, input="Second."))
            await until(lambda: seats_of(server) == (1, 1))  # the queue is full
            await talk.say("input.text", text="two. Three ")
            await until(lambda: seats_of(server) == (1, 2))
            engine.permits.release(1000)
            assert (await talk.until("audio.done"))["sentence_index"] == 1
            await talk.say("input.done")
            await talk.until("session.done")
            for thread in others:
                thread.join()
            assert len(talk.audio[1]) == 2 * (3 * SECOND + 2 * 960)

    run(scenario)
    said = words(engine)
    assert said[:3] == ["One one.", "First.", "Two two."]
    assert sorted(said[3:]) == ["Second.", "Three"]
    assert [answer.status for answer in answers] == [200, 200]


class GrowingHeldSpeech(HeldSpeech):
    def feed(self, _text: str) -> None:
        pass

    def finish(self) -> None:
        pass


class GrowingHeldEngine(HeldEngine):
    def __init__(self) -> None:
        super().__init__()
        self.capabilities = replace(CAPABILITIES, streaming_text=True)

    def start(self, plan: Plan) -> GrowingHeldSpeech:
        self.load()
        speech = GrowingHeldSpeech(self, plan)
        self.speeches.append(speech)
        return speech


def test_an_utterance_keeps_its_seat_while_text_from_before_is_spoken(start: Start) -> None:
    engine = GrowingHeldEngine()
    server = start(engine, UTTERANCE_IDLE_SEC="2")

    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One one. Two ")
            engine.permits.release(20)
            await talk.until("audio.start")
            for _ in range(30):
                engine.permits.release(5)
                await asyncio.sleep(0.1)
            assert seats_of(server) == (1, 0)
            await until(lambda: seats_of(server) == (0, 0))  # neither text nor sound

    run(scenario)


class FailsAtTwo(HeldEngine):
    def start(self, plan: Plan) -> HeldSpeech:
        if plan.chunks[0].turns[0].text == "Two two.":
            raise EngineError("the fake engine failed as it was told to")
        return super().start(plan)


@pytest.mark.parametrize("end", ["cancel", "session.close", "reset", "error"])
def test_an_utterance_that_ends_early_gives_its_seat_up_at_once(start: Start, end: str) -> None:
    engine = FailsAtTwo(steady)
    server = start(engine, UTTERANCE_IDLE_SEC="3600")
    answers: list[Answer] = []

    async def scenario() -> None:
        async with talking(server) as talk:
            engine.permits.release(9)
            await first_sentence(talk)
            waiting = asked(server, answers)
            await until(lambda: seats_of(server) == (1, 1))
            if end == "error":
                await talk.say("input.text", text="two. Three ")
            elif end == "reset":
                talk.socket.transport.abort()
            else:
                await talk.say(end)
            await until(lambda: len(engine.speeches) == 2)
            assert seats_of(server) == (1, 0)
            engine.permits.release(1000)
            waiting.join()

    run(scenario)
    assert [answer.status for answer in answers] == [200]


def test_a_pause_in_a_sentence_does_not_hold_the_seat_for_ever(start: Start) -> None:
    engine = FakeEngine(lambda _: steady(0).repeat(60))  # far more than is made ahead
    server = start(engine, SESSION_IDLE_SEC="2")
    answers: list[Answer] = []

    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            await talk.until("audio.start")
            await talk.say("pause")
            await talk.until("paused")
            waiting = asked(server, answers)
            while waiting.is_alive():  # the session is not silent meanwhile
                await talk.say("pause")
                await talk.until("paused")
            await talk.say("resume")
            while not isinstance(error := await talk.next(), dict) or error["type"] != "error":
                assert error not in talk.kinds("audio.done")
            assert (error["utterance"], error["error"]["code"]) == (1, "stalled")
            await talk.say("input.text", text="Again.")
            await talk.say("input.done")
            assert (await talk.until("session.done"))["utterance"] == 2

    run(scenario)
    assert [answer.status for answer in answers] == [200]


def test_all_sentences_have_the_seed_that_was_drawn_for_the_first(start: Start) -> None:
    engine = FakeEngine(ramp)
    server = start(engine)

    async def scenario() -> None:
        async with talking(server, seed=None) as talk:
            for name in "ab":
                await talk.say("input.text", text="One. Two. Three.", context_id=name)
                await talk.say("input.done", context_id=name)
                await talk.until("session.done")
        told = [done["seed"] for done in talk.kinds("audio.done")]
        assert told == [told[0]] * 3 + [told[3]] * 3
        assert told[0] != told[3]
        assert told == [plan.chunks[0].seed for plan in engine.plans]
        # A drawn seed does not ask for bits that repeat, which may cost speed.
        assert not any(plan.options.repeatable for plan in engine.plans)

    run(scenario)


def test_a_sentence_says_what_it_took_of_the_gpu(start: Start) -> None:
    engine = FakeEngine(ramp, capabilities=replace(CAPABILITIES, gpu=True), device_sec=2.5)
    server = start(engine, GPU_USD_PER_SECOND="0.0004")

    async def scenario() -> None:
        async with talking(server) as talk:
            await talk.say("input.text", text="One.")
            await talk.say("input.done")
            done = await talk.until("audio.done")
        assert (done["gpu_sec"], done["cost_usd"]) == (2.5, 0.001)

    run(scenario)


def test_the_recording_at_a_callers_address_is_fetched_once_an_utterance(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(_: VibeVoiceInference, url: str) -> bytes:
        fetched.append(url)
        return recording()

    monkeypatch.setattr(VibeVoiceInference, "fetch_voice", fetch)
    engine = FakeEngine(ramp)
    server = start(engine)

    async def scenario() -> None:
        async with talking(server, voice_url="https://example.com/me.wav") as talk:
            for name in "ab":
                await talk.say("input.text", text="One. Two. Three.", context_id=name)
                await talk.say("input.done", context_id=name)
                await talk.until("session.done")
        assert len({done["voice"] for done in talk.kinds("audio.done")}) == 1

    run(scenario)
    assert len(engine.plans) == 6
    assert len({plan.voices[0].sha256 for plan in engine.plans}) == 1
    assert len(fetched) == 2


def test_the_seat_that_comes_free_is_handed_to_the_first_who_waits() -> None:
    async def scenario() -> None:
        admission = AdmissionControl(1, 5)
        order: list[str] = []

        async def sit(name: str, seat: Seat) -> None:
            with seat:
                await seat.take()
                order.append(name)

        held, back = admission.seat(), admission.seat()
        await back.take()
        back.leave()
        await held.take()
        tasks = [asyncio.create_task(sit(name, admission.seat())) for name in "ab"]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(sit("back", back)))
        await asyncio.sleep(0)
        assert (admission.taken, admission.waiting) == (1, 3)
        held.leave()
        assert (admission.taken, admission.waiting) == (1, 2)  # nobody can come between
        late = asyncio.create_task(sit("late", admission.seat()))
        await asyncio.gather(*tasks, late)
        assert order == ["back", "a", "b", "late"]
        assert (admission.taken, admission.waiting) == (0, 0)

    run(scenario)


def test_a_seat_that_is_handed_to_one_who_just_left_goes_to_the_next() -> None:
    async def scenario() -> None:
        admission = AdmissionControl(1, 5)
        held, first, second = admission.seat(), admission.seat(), admission.seat()
        await held.take()
        leaving, staying = (asyncio.create_task(each.take()) for each in (first, second))
        await asyncio.sleep(0)
        held.leave()
        leaving.cancel()  # in the same turn of the loop
        await asyncio.wait({leaving})
        assert leaving.cancelled()
        await staying
        assert (admission.taken, admission.waiting) == (1, 0)

        gone = asyncio.create_task(admission.seat().take())
        await asyncio.sleep(0)
        gone.cancel()
        second.leave()
        await asyncio.wait({gone})
        assert (admission.taken, admission.waiting) == (0, 0)

    run(scenario)


def test_a_wait_has_an_end_and_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        admission = AdmissionControl(1, 1, longest_wait_sec=0.01)
        await admission.seat().take()
        with pytest.raises(ApiError) as caught:
            await admission.seat().take()
        assert caught.value.status_code == 503
        assert (admission.taken, admission.waiting) == (1, 0)

    run(scenario)
