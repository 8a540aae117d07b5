/** The direct backend: bytes straight through, and a server's errors. */

import { afterEach, expect, test, vi } from "vitest";
import { audio, emptyBucket, eventsOf, network, speak, TOKEN, visit } from "./fakes.js";

afterEach(() => vi.unstubAllGlobals());

const URL = "https://server.test";
const ROUTE = `${URL}/v1/audio/speech`;
const settings = { RUNPOD_URL: "", SPEECH_URL: URL };
const served =
  (bytes, headers = {}) =>
  () =>
    new Response(bytes, { headers });

test("the server gets the contract's fields with its own voice, and the request's id", async () => {
  const calls = network({ [ROUTE]: served(audio("wav")) });
  const headers = { "X-Request-ID": "mine" };
  const answer = await speak(
    { voice: "nova", response_format: "wav", seed: 2 },
    { settings, headers },
  );
  expect(answer.bytes).toEqual(audio("wav"));
  expect(answer.headers.get("Content-Type")).toBe("audio/wav");
  expect(calls[0].headers.get("X-Request-ID")).toBe("mine");
  expect(calls[0].headers.get("Authorization")).toBe("Bearer rpa_1");
  expect(calls[0].body).toEqual({
    ...{ model: "tts-1", input: "Hello there.", voice: "Maya", response_format: "wav" },
    ...{ speed: 1, seed: 2 },
  });
});

test("any model's name goes to the server, whose list is shown", async () => {
  const own = { data: [{ id: "kokoro" }, { id: "vibevoice" }] };
  const models = `${URL}/v1/models`;
  const calls = network({ [ROUTE]: served(audio()), [models]: () => Response.json(own) });
  expect((await speak({ model: "kokoro" }, { settings })).status).toBe(200);
  expect(calls[0].body.model).toBe("kokoro");
  const listed = await (await visit("/v1/models", { settings }).answer).json();
  expect(listed.data.map(({ id }) => id)).toEqual(["kokoro", "vibevoice"]);
  expect((await visit("/v1/models/kokoro", { settings }).answer).status).toBe(200);
  expect((await visit("/v1/models/tts-1", { settings }).answer).status).toBe(404);
});

test("without a model the server decides", async () => {
  const calls = network({ [ROUTE]: served(audio()) });
  expect((await speak({ model: undefined }, { settings })).status).toBe(200);
  expect(calls[0].body).not.toHaveProperty("model");
});

test("a public list has no voice of the server, which may be an upload", async () => {
  const voices = `${URL}/v1/audio/voices`;
  const own = { voices: [{ id: "Ada" }] };
  network({ [voices]: () => Response.json(own) });
  const open = { settings: { ...settings, PUBLIC_LISTS: "true" } };
  const names = async (options) => {
    const listed = await (await visit("/v1/audio/voices", options).answer).json();
    return listed.voices.map(({ id }) => id);
  };
  expect(await names(open)).toContain("Ada");
  expect(await names({ ...open, auth: null })).not.toContain("Ada");
  expect(await names({ ...open, auth: null })).toContain("alloy");
});

test("a server that lists no models has OpenAI's", async () => {
  network({ [`${URL}/v1/models`]: refusal(404, "") });
  expect((await visit("/v1/models/tts-1", { settings }).answer).status).toBe(200);
});

test("a dry run's plan passes", async () => {
  const plan = { status: "success", dry_run: true, chunks: [] };
  const calls = network({ [ROUTE]: served(JSON.stringify(plan)) });
  const answer = await speak({ dry_run: true }, { settings });
  expect([answer.status, JSON.parse(answer.text())]).toEqual([200, plan]);
  expect(calls[0].body.dry_run).toBe(true);
});

test.each([
  [served(audio()), 502, "upstream_error"],
  [
    () => Response.json({ error: { message: "No.", type: "x", code: "y" } }, { status: 400 }),
    400,
    "y",
  ],
])("a dry run that gives no plan is an error", async (answerOf, status, code) => {
  network({ [ROUTE]: answerOf });
  const answer = await speak({ dry_run: true }, { settings });
  expect([answer.status, answer.error.code]).toEqual([status, code]);
});

test("the server's facts pass", async () => {
  const headers = { "X-Speech-Seed": "5", "X-Speech-Engine": "vibevoice", "X-Speech-Cache": "hit" };
  network({ [ROUTE]: served(audio(), headers) });
  const answer = await speak({}, { settings });
  expect(answer.headers.get("X-Speech-Seed")).toBe("5");
  expect(answer.headers.get("X-Speech-Engine")).toBe("vibevoice");
  expect(answer.headers.get("X-Speech-Cache")).toBeNull();
});

test("the server's events pass as they are", async () => {
  const events = 'data: {"type":"speech.audio.done","usage":{}}\r\n\r\ndata: [DONE]\r\n\r\n';
  const calls = network({ [ROUTE]: served(events) });
  const answer = await speak({ stream_format: "sse" }, { settings });
  expect(answer.text()).toBe(events);
  expect(eventsOf(answer.text()).at(-1)).toBe("[DONE]");
  expect(calls[0].body.stream_format).toBe("sse");
});

test.each([
  "https://server.test/",
  "https://server.test/v1",
  "https://server.test/v1/audio/speech",
])("the address may be %s", async (SPEECH_URL) => {
  network({ [ROUTE]: served(audio()) });
  expect((await speak({}, { settings: { ...settings, SPEECH_URL } })).status).toBe(200);
});

const refusal =
  (status, body, headers = {}) =>
  () =>
    new Response(typeof body === "string" ? body : JSON.stringify(body), { status, headers });
const envelope = { message: "No.", type: "server_error", param: null, code: "queue_full" };
test.each([
  [
    "its own error",
    refusal(503, { error: envelope }, { "Retry-After": "9" }),
    503,
    "queue_full",
    "9",
  ],
  ["a failure of its own", refusal(500, { error: envelope }), 500, "queue_full", null],
  ["a cold start", refusal(400, "no workers available"), 503, "worker_unavailable", "30"],
  ["a key that is refused", refusal(401, { error: envelope }), 502, "upstream_refused", null],
  ["RunPod's limit of time", refusal(524, "<html>"), 504, "timeout", null],
  ["too many requests", refusal(429, "slow down"), 429, "rate_limit_exceeded", "5"],
  ["a gateway's error", refusal(502, "<html>"), 502, "upstream_error", "2"],
  ["an error without a word", refusal(500, ""), 502, "upstream_error", null],
  ["a page instead of audio", served("<html>"), 502, "upstream_error", null],
  ["nothing", served(""), 502, "upstream_error", null],
])("%s becomes the right error", async (_, answerOf, status, code, retry) => {
  network({ [ROUTE]: answerOf });
  const answer = await speak({}, { settings });
  expect([answer.status, answer.error.code]).toEqual([status, code]);
  expect(answer.headers.get("Retry-After")).toBe(retry);
  if (!retry) expect(answer.headers.get("x-should-retry")).toBe("false");
});

test("RunPod's limit of time is named", async () => {
  network({ [ROUTE]: refusal(524, "<html>") });
  const answer = await speak({}, { settings });
  expect(answer.error.message).toContain("a load balancer of RunPod's gives it 330 s");
});

test("a server that is gone may come back", async () => {
  network({});
  const answer = await speak({}, { settings });
  expect([answer.status, answer.headers.get("Retry-After")]).toEqual([502, "2"]);
});

test("a body that breaks off is broken off", async () => {
  let count = 0;
  const body = new ReadableStream({
    pull(controller) {
      if (count++ < 3) controller.enqueue(audio("mp3", 4096));
      else controller.error(new Error("reset"));
    },
  });
  network({ [ROUTE]: () => new Response(body) });
  expect((await speak({}, { settings })).broken).toBe(true);
});

test("a page is no pcm", async () => {
  for (const type of ["text/html", "application/json; charset=utf-8"]) {
    network({ [ROUTE]: served("<html>", { "Content-Type": type }) });
    const answer = await speak({ response_format: "pcm" }, { settings });
    expect([answer.status, answer.error.code]).toEqual([502, "upstream_error"]);
  }
});

test("events that break off end with an error", async () => {
  const event = 'data: {"type":"speech.audio.delta","audio":"//PE"}\r\n\r\n';
  let count = 0;
  const body = new ReadableStream({
    pull(controller) {
      if (count++ < 3) controller.enqueue(new TextEncoder().encode(event));
      else controller.error(new Error("reset"));
    },
  });
  const headers = { "Content-Length": String(event.length * 10) };
  network({ [ROUTE]: () => new Response(body, { headers }) });
  const answer = await speak({ stream_format: "sse" }, { settings });
  const lines = answer.text().split("\r\n\r\n").filter(Boolean);
  expect(lines.slice(0, 3)).toEqual(Array(3).fill(event.trim()));
  expect(JSON.parse(lines[3].slice("data: ".length)).error.code).toBe("upstream_error");
  expect(lines).toHaveLength(4);
});

test("the voices are the map's and the server's", async () => {
  const listed = { voices: [{ id: "Alice" }, { id: "alloy" }] };
  network({ [`${URL}/v1/audio/voices`]: listed });
  const { answer } = visit("/v1/audio/voices", { settings, auth: `Bearer ${TOKEN}` });
  const ids = (await (await answer).json()).voices.map(({ id }) => id);
  expect(ids).toHaveLength(14);
  expect(ids).toContain("Alice");
});

test("the voices are the map's where the server does not tell", async () => {
  for (const broken of [500, { voices: "?" }, () => new Response("<html>")]) {
    network({ [`${URL}/v1/audio/voices`]: broken });
    const { answer } = visit("/v1/audio/voices", { settings });
    expect((await (await answer).json()).voices).toHaveLength(13);
  }
});

test("a voice that was replaced, deleted or shadowed does not speak on from the cache", async () => {
  const kept = { ...settings, CACHE: "r2", VIBEVOICE_BUCKET: await emptyBucket() };
  const upload = (id, version) => ({ id, type: "audio_sample", created_at: 1, version });
  const own = { id: "Frank", version: "1-1" };
  let voices = [own, upload("Ada", "2-2"), upload("Bob", "3-3")];
  network({
    [`${URL}/v1/audio/voices`]: () =>
      voices ? Response.json({ voices }) : new Response("", { status: 500 }),
    [ROUTE]: served(audio("wav")),
  });
  const asked = { voice: "ada", response_format: "wav", seed: 2 };
  const cached = async (more = {}) =>
    (await speak({ ...asked, ...more }, { settings: kept })).headers.get("X-Speech-Cache");
  const script = { speakers: { 1: "Frank", 2: "Ada" } };
  expect(await cached()).toBe("miss");
  expect(await cached()).toBe("hit");
  expect(await cached(script)).toBe("miss");
  voices = [own, upload("Ada", "2-2")]; // another's upload is deleted
  expect([await cached(), await cached(script)]).toEqual(["hit", "hit"]);
  voices = [own, upload("Ada", "4-4")]; // replaced
  expect([await cached(), await cached(script)]).toEqual(["miss", "miss"]);
  voices = [own]; // deleted: another may stand in
  expect([await cached(), await cached()]).toEqual(["miss", "hit"]);
  voices = [{ ...own, version: "5-5" }]; // and is replaced itself
  expect(await cached()).toBe("miss");
  voices = null; // unknown
  expect(await cached()).toBeNull();
});

test("a list of many voices is read whole", async () => {
  const voices = Array.from({ length: 5_000 }, (_, at) => ({ id: `voice ${at}` }));
  network({ [`${URL}/v1/audio/voices`]: { voices, data: voices } });
  const listed = await (await visit("/v1/audio/voices", { settings }).answer).json();
  expect(listed.voices.length).toBeGreaterThan(5_000);
});
