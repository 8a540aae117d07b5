/** The queue backend: what it sends, what it makes of every outcome. */

import { afterEach, describe, expect, test, vi } from "vitest";
import {
  audio,
  completed,
  ENDPOINT,
  eventsOf,
  network,
  never,
  SPEECH,
  speak,
  until,
  visit,
} from "./fakes.js";

afterEach(() => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

const QUEUED = { id: "job-1", status: "IN_QUEUE" };
const WORKING = { id: "job-1", status: "IN_PROGRESS", output: { chunks_done: 1 } };
test("a model of the worker's goes with the job, and OpenAI's names mean its default", async () => {
  const calls = network({ runsync: completed() });
  const models = ["kokoro", "Vibevoice", "tts-1", "GPT-4o-mini-TTS"];
  for (const model of models) expect((await speak({ model })).status).toBe(200);
  const passed = calls.map(({ body }) => body.input.model);
  expect(passed).toEqual(["kokoro", "Vibevoice", undefined, undefined]);
});

const failedWith = (error) => ({ id: "job-1", status: "FAILED", error });

/** Asserts on an error: its status, code, and what an SDK will do. */
function expectError(answer, status, code, retry) {
  expect([answer.status, answer.error.code]).toEqual([status, code]);
  expect(Object.keys(answer.error)).toEqual(["message", "type", "param", "code"]);
  expect(answer.headers.get("x-should-retry")).toBe(retry === false ? "false" : null);
  expect(answer.headers.get("Retry-After")).toBe(
    retry === false || retry === undefined ? null : String(retry),
  );
}

describe("the job", () => {
  test("has the worker's fields, and the request's id for its log", async () => {
    const calls = network({ runsync: completed() });
    const extras = { seed: 3, cfg_scale: 2, steps: 5, pronunciations: { a: "b" }, loudness: null };
    const asked = {
      speed: 1.5,
      instructions: "Slowly.",
      stream: true,
      speakers: { 1: "nova", 2: { id: "Bob" } },
    };
    const headers = { "X-Request-ID": "mine" };
    const answer = await speak({ ...extras, ...asked, nonsense: 1 }, { headers });
    const [{ path, body, headers: sent }] = calls;
    expect(path).toBe("runsync?wait=5000");
    expect(sent.get("Authorization")).toBe("Bearer rpa_1");
    expect(body).toEqual({
      input: {
        ...extras,
        input: SPEECH.input,
        voice: "Alice",
        response_format: "mp3",
        speed: 1.5,
        speakers: { 1: "Maya", 2: "Bob" },
        request_id: "mine",
        must_fit: true,
      },
      policy: { ttl: 590_000 },
    });
    expect(answer.headers.get("X-Speech-Ignored")).toBe("instructions; nonsense");
  });

  test("has numbers and booleans however they are written, and the recording", async () => {
    const calls = network({ runsync: completed() });
    const voice_base64 = "A".repeat(9_333_336);
    const asked = { cfg_scale: "2", seed: "7", disable_prefill: "yes", speed: " 2 ", voice_base64 };
    expect((await speak(asked)).status).toBe(200);
    expect(calls[0].body.input).toEqual({
      ...{ input: SPEECH.input, voice: "Alice", response_format: "mp3", speed: 2 },
      must_fit: true,
      ...{ cfg_scale: 2, seed: 7, disable_prefill: true, voice_base64 },
      request_id: expect.any(String),
    });
  });

  test("may be too large beside its recording, or by it, and is not sent then", async () => {
    const calls = network({ runsync: completed() });
    const voice_base64 = "A".repeat(9_333_336);
    for (const more of [{ nonsense: "x".repeat(1_200_000) }, { instructions: voice_base64 }]) {
      const answer = await speak({ voice_base64, ...more });
      expect([answer.status, answer.error.code]).toEqual([413, "request_too_large"]);
    }
    expect(calls).toEqual([]);
  });

  test("of a dry run is answered with the plan, whatever else is set", async () => {
    const plan = { status: "success", dry_run: true, chunks: [] };
    const calls = network({ runsync: { ...completed(null), output: [plan] } });
    const settings = { RUNPOD_STREAM: "true" };
    for (const stream_format of ["audio", "sse"]) {
      const answer = await speak({ dry_run: "on", nonsense: 1, stream_format }, { settings });
      expect([answer.status, JSON.parse(answer.text())]).toEqual([200, plan]);
      expect(answer.headers.get("X-Speech-Ignored")).toBe("nonsense");
    }
    expect(calls[0].body.input).toMatchObject({ dry_run: true, voice: "Alice" });
    network({ runsync: failedWith("[invalid_value] input: holds nothing that can be spoken") });
    expectError(await speak({ dry_run: true }), 400, "invalid_value");
  });

  test("is posted to an address with or without /runsync", async () => {
    for (const end of ["", "/", "/runsync", "/run", "/runsync/"]) {
      const calls = network({ runsync: completed() });
      await speak({}, { settings: { RUNPOD_URL: ENDPOINT + end } });
      expect(calls[0].path).toBe("runsync?wait=5000");
    }
  });
});

describe("a success", () => {
  test("is the audio with its length and the facts in headers", async () => {
    const bytes = audio("wav", 300_000);
    network({
      runsync: completed(bytes, { format: "wav", warnings: ["voice: “Bob” is unknown"] }),
    });
    const answer = await speak({ response_format: "wav" });
    expect(answer.status).toBe(200);
    expect(answer.bytes).toEqual(bytes);
    const facts = [...answer.headers].filter(([name]) => /^x-speech/.test(name));
    expect(Object.fromEntries(facts)).toEqual({
      "x-speech-engine": "espeak",
      "x-speech-voice": "Alice",
      "x-speech-seed": "7",
      "x-speech-seconds": "2",
      "x-speech-queue-ms": "12",
      "x-speech-synth-ms": "345",
      "x-speech-total-ms": expect.stringMatching(/^\d+$/),
      "x-speech-job": "job-1",
      "x-speech-warnings": "voice: ?Bob? is unknown",
    });
  });

  test("may be the last item of a list", async () => {
    const whole = completed();
    network({ runsync: { ...whole, output: [{ audio_chunk: "", index: 0 }, whole.output] } });
    const answer = await speak();
    expect(answer.bytes).toEqual(audio());
    expect(answer.headers.get("X-Speech-Seed")).toBe("7");
  });

  test("in another format than was asked for says which", async () => {
    network({ runsync: completed(audio("opus"), { format: "opus" }) });
    const answer = await speak({ response_format: "wav", allow_recompress: true });
    expect(answer.headers.get("Content-Type")).toBe("audio/opus");
  });

  test("that outlasts the wait is asked for, soon and then each time within a second", async () => {
    const pauses = vi.spyOn(scheduler, "wait").mockResolvedValue();
    network({ runsync: QUEUED, status: [...Array(30).fill(WORKING), completed()] });
    expect((await speak()).bytes).toEqual(audio());
    const [first, ...later] = pauses.mock.calls.flat();
    expect(later).toHaveLength(30);
    expect(first).toBe(100);
    expect(Math.max(...later)).toBe(900);
  });

  test("survives calls that fail on the way to it", async () => {
    const broken = () => new Response("<html>");
    network({ runsync: QUEUED, status: [500, 429, broken, 503, completed()] });
    expect((await speak()).bytes).toEqual(audio());
  });

  test("of 30 MB passes", async () => {
    const bytes = audio("wav", 22_500_000);
    const json = JSON.stringify(completed(bytes, { format: "wav" }));
    network({ runsync: () => new Response(json) });
    const answer = await speak({ response_format: "wav" });
    expect(answer.bytes.length).toBe(bytes.length);
    expect(answer.bytes.at(-1)).toBe(bytes.at(-1));
  });

  test.each([
    "http://8.8.8.8/a",
    "http://223.1.1.1/a",
    "http://172.32.0.1/a",
    "http://[2a00::1]/a",
  ])("may lie behind a link to a number: %s", async (audio_url) => {
    network({ runsync: completed(null, { audio_url }), [audio_url]: () => new Response(audio()) });
    expect((await speak()).bytes).toEqual(audio());
  });

  test("may lie behind a link, which is followed without the bridge's key", async () => {
    const store = () => new Response(audio(), { headers: { "Content-Length": "10000" } });
    const audio_url = "https://store.test/a.mp3?X-Amz-Signature=secret";
    const calls = network({ runsync: completed(null, { audio_url }), [audio_url]: [503, store] });
    const answer = await speak();
    expect(answer.bytes).toEqual(audio());
    expect(calls.map(({ kind }) => kind)).toEqual(["runsync", audio_url, audio_url]);
    expect(calls[2].headers.get("Authorization")).toBeNull();
  });
});

describe("a failure", () => {
  const sentences = [
    ["input: has 9 characters (allowed: 1 to 5)", 400, "string_above_max_length", "input"],
    [
      "response_format: 'x' is unknown (allowed: mp3)",
      400,
      "unsupported_format",
      "response_format",
    ],
    ["voice: no voice 'Bob' (available: Alice)", 404, "voice_not_found", "voice"],
    ["speakers.2: no voice 'Bob' (available: Alice)", 404, "voice_not_found", "speakers"],
    ["voice_url: the server answers 404", 400, "invalid_value", "voice_url"],
  ];
  test.each(sentences)(
    "of the request is the caller's: %s",
    async (sentence, status, code, param) => {
      network({ runsync: failedWith(`[${code}] ${sentence}`) });
      const answer = await speak();
      expectError(answer, status, code);
      expect(answer.error.param).toBe(param);
      expect(answer.error.message).toBe(sentence);
    },
  );

  test("of the worker is not tried again by SDKs", async () => {
    network({ runsync: failedWith("[engine_failed] weights: the engine is gone") });
    const answer = await speak();
    expectError(answer, 500, "engine_failed", false);
    expect(answer.error.message).toBe("weights: the engine is gone");
    expect(answer.error.param).toBeNull();
  });

  test("of a worker that is replaced may be tried again", async () => {
    network({ runsync: failedWith("[worker_unavailable] whatever it says") });
    expectError(await speak(), 503, "worker_unavailable", 5);
  });

  test.each([
    [JSON.stringify({ error_type: "X", error_traceback: "File /secret/place.py" })],
    ["text: has 9 characters (allowed: text of 1 to 5 characters)"],
    ["speaker_name: no voice 'Bob': send the job again"],
    ["[unheard_of] voice: no voice 'secret'"],
    ["[toString] secret"],
    ["[] secret"],
    [""],
    [undefined],
    [{ error: "[voice_not_found] voice: secret" }],
  ])("without a code that is known is the worker's, without its words: %s", async (error) => {
    network({ runsync: failedWith(error) });
    const answer = await speak();
    expectError(answer, 500, null, false);
    expect(answer.error.message).toBe("The worker failed; RunPod shows why, by the job's id.");
  });

  test.each([
    ["TIMED_OUT", 504, "timeout"],
    ["CANCELLED", 500, "job_cancelled"],
  ])("%s is not tried again", async (status, http, code) => {
    network({ runsync: { id: "job-1", status } });
    expectError(await speak(), http, code, false);
  });

  test("is found by polling, too", async () => {
    network({ runsync: QUEUED, status: [WORKING, failedWith("[engine_failed] gone")] });
    expectError(await speak(), 500, "engine_failed", false);
  });

  test("of a success without audio is not tried again", async () => {
    network({ runsync: completed(null) });
    expectError(await speak(), 502, "upstream_error", false);
  });

  test("of audio that is none is seen before the 200", async () => {
    network({ runsync: completed(new TextEncoder().encode("<Error>")) });
    expectError(await speak(), 502, "upstream_error", false);
  });

  test.each([
    [401, 502, "upstream_refused", false],
    [403, 502, "upstream_refused", false],
    [404, 502, "upstream_refused", false],
    [400, 502, "upstream_refused", false],
    [413, 413, "request_too_large", undefined],
    [429, 429, "rate_limit_exceeded", 5],
    [500, 502, "upstream_error", 2],
    [503, 502, "upstream_error", 2],
    [504, 504, "timeout", false],
    [524, 504, "timeout", false],
  ])("of RunPod with %i is a %i", async (status, http, code, retry) => {
    network({ runsync: status });
    const answer = await speak();
    expectError(answer, http, code, retry);
    expect(answer.text()).not.toContain("rpa_1");
  });

  test("keeps RunPod's own Retry-After", async () => {
    network({ runsync: () => new Response("", { status: 429, headers: { "Retry-After": "17" } }) });
    expectError(await speak(), 429, "rate_limit_exceeded", 17);
  });

  test("of the network may be tried again", async () => {
    network({});
    expectError(await speak(), 502, "upstream_error", 2);
  });

  test.each([
    ["<html>garbage"],
    ['{"id": "job-1", "status": "COMPLETED", "output": {"audio_base64": "//PE'],
    ['{"id": "job-1", "status": "COMPLETED", "output": {"audio_base64": "***"}}'],
    ["[]"],
    ['{"status": "COMPLETED"}'],
  ])("of an answer that cannot be read may have cost: %s", async (text) => {
    network({ runsync: () => new Response(text) });
    expectError(await speak(), 502, "upstream_error", false);
  });

  test("of an answer that breaks off may have cost", async () => {
    const broken = new ReadableStream({
      start: (controller) => controller.enqueue(new TextEncoder().encode('{"id":')),
      pull: (controller) => controller.error(new Error("reset")),
    });
    network({ runsync: () => new Response(broken) });
    expectError(await speak(), 502, "upstream_error", false);
  });

  test("of every call for the state cancels the job", async () => {
    const calls = network({ runsync: QUEUED, status: 404, cancel: {} });
    expectError(await speak(), 502, "upstream_refused", false);
    expect(calls.at(-1).path).toBe("cancel/job-1");
  });

  test("to start cancels the job and may be tried again", async () => {
    const calls = network({ runsync: QUEUED, status: QUEUED, cancel: {} });
    const answer = await speak({}, { settings: { QUEUE_TIMEOUT_SECONDS: "1" } });
    expectError(answer, 503, "worker_unavailable", 30);
    expect(calls.at(-1).path).toBe("cancel/job-1");
  });

  test("to answer in time does not wait for ever", async () => {
    vi.stubGlobal("setTimeout", (work) => queueMicrotask(work));
    network({ runsync: never });
    expectError(await speak(), 504, "timeout", false);
  });

  test.each([403, 404])("of a link with %i is not tried again and not shown", async (status) => {
    const audio_url = "https://store.test/a.mp3?X-Amz-Signature=secret";
    const calls = network({ runsync: completed(null, { audio_url }), [audio_url]: status });
    const answer = await speak();
    expectError(answer, 502, "upstream_error", false);
    expect(answer.text()).not.toContain("secret");
    expect(calls).toHaveLength(2);
  });

  const inside = [
    ...[
      "http://127.0.0.1/a",
      "http://2130706433/a",
      "http://0x7f.1/a",
      "http://10.1.2.3/a",
      "http://224.0.0.1/",
    ],
    ...["http://169.254.169.254/latest", "http://172.31.0.1/", "http://192.168.0.1/"],
    ...["http://100.100.0.1/", "http://[::1]/", "http://[fd00::1]/", "http://[::ffff:10.0.0.1]/"],
    ...[
      "http://localhost/a",
      "http://a.localhost./",
      "http://metadata.google.internal/",
      "http://x/",
    ],
    ...["file:///etc/passwd", "data:audio/mpeg,x", "a.mp3", "http://"],
  ];
  test.each(inside)("of a link to %s is not followed", async (audio_url) => {
    const calls = network({ runsync: completed(null, { audio_url }), [audio_url]: () => audio() });
    expectError(await speak(), 502, "upstream_error", false);
    expect(calls).toHaveLength(1);
  });

  test("of a link that leads there is not followed, and one that leads on is", async () => {
    const audio_url = "https://store.test/a.mp3";
    const to = (Location) => () => new Response(null, { status: 307, headers: { Location } });
    const calls = network({
      runsync: completed(null, { audio_url }),
      [audio_url]: [to("http://127.0.0.1/a"), to("/b.mp3")],
      "https://store.test/b.mp3": () => new Response(audio()),
    });
    expectError(await speak(), 502, "upstream_error", false);
    expect(calls).toHaveLength(2);
    expect((await speak()).bytes).toEqual(audio());
  });

  test.each(["", "sse"])(
    "in the middle of a link's audio breaks the answer off (%s)",
    async (kind) => {
      let count = 0;
      const broken = new ReadableStream({
        pull(controller) {
          if (count++ < 3) controller.enqueue(audio("mp3", 4096));
          else controller.error(new Error("reset"));
        },
      });
      const audio_url = "https://store.test/a.mp3";
      const store = () => new Response(broken, { headers: { "Content-Length": "20000" } });
      network({ runsync: completed(null, { audio_url }), [audio_url]: store });
      const answer = await speak(kind ? { stream_format: kind } : {});
      expect(answer.status).toBe(200);
      if (!kind) return expect(answer.broken).toBe(true);
      const events = eventsOf(answer.text());
      expect(events).not.toContain("[DONE]");
      expect(events.at(-1)).toEqual({
        type: "error",
        error: {
          message: expect.any(String),
          type: "server_error",
          param: null,
          code: "upstream_error",
        },
      });
    },
  );

  test("of a link to go on breaks the answer off", async () => {
    const stalled = new ReadableStream({ start: (controller) => controller.enqueue(audio()) });
    const audio_url = "https://store.test/a.mp3";
    const store = () => new Response(stalled, { headers: { "Content-Length": "20000" } });
    network({ runsync: completed(null, { audio_url }), [audio_url]: store });
    const answer = await speak({}, { settings: { IDLE_TIMEOUT_SECONDS: "1" } });
    expect(answer.broken).toBe(true);
  });
});

describe("a caller who leaves", () => {
  /** A request whose caller leaves as soon as `left` is called. */
  function leaving(settings = {}) {
    const caller = new AbortController();
    const { answer, settled } = visit("/v1/audio/speech", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(SPEECH),
      signal: caller.signal,
      settings,
    });
    answer.then((response) => response.body?.cancel()).catch(() => {});
    return { answer, left: () => caller.abort(), settled };
  }

  test("cancels the job that is at work", async () => {
    const calls = network({ runsync: QUEUED, status: WORKING, cancel: {} });
    const { left, settled } = leaving();
    await until(() => calls.length > 2);
    left();
    await settled();
    expect(calls.filter(({ kind }) => kind === "cancel").map(({ path }) => path)).toEqual([
      "cancel/job-1",
    ]);
    const polls = calls.length;
    await scheduler.wait(300);
    expect(calls.length).toBe(polls);
  });

  test("cancels the job though RunPod fails for the moment", async () => {
    const calls = network({ runsync: QUEUED, status: WORKING, cancel: [500, 429, {}] });
    const { left, settled } = leaving();
    await until(() => calls.length > 2);
    left();
    await settled();
    expect(calls.filter(({ kind }) => kind === "cancel")).toHaveLength(3);
  });

  test("before RunPod tells the job's id cancels it after", async () => {
    let tell;
    const calls = network({
      runsync: () => new Promise((resolve) => (tell = () => resolve(QUEUED))),
      status: WORKING,
      cancel: {},
    });
    const { left, settled } = leaving();
    await until(() => tell);
    left();
    tell();
    await settled();
    expect(calls.at(-1).path).toBe("cancel/job-1");
  });

  test("after the job has ended cancels nothing", async () => {
    const calls = network({ runsync: completed() });
    const { answer, left, settled } = leaving();
    await answer;
    left();
    await settled();
    expect(calls).toHaveLength(1);
  });
});
