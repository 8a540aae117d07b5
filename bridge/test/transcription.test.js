/** Recordings that become text: the form passed on to a server, or made a job of a queue. */

import OpenAI from "openai";
import { afterEach, expect, test, vi } from "vitest";
import { ENDPOINT, network, TOKEN, visit } from "./fakes.js";

afterEach(() => vi.unstubAllGlobals());

const PATH = "/v1/audio/transcriptions";
const URL = "https://server.test";
const DIRECT = { RUNPOD_URL: "", SPEECH_URL: URL };

const SEGMENTS = [
  { id: 0, seek: 0, start: 0, end: 0.5, text: "Is it?", tokens: [1], temperature: 0 },
  { id: 1, seek: 100, start: 1, end: 1.5, text: "It is.", tokens: [2], temperature: 0 },
].map((each) => ({ ...each, avg_logprob: -0.2, compression_ratio: 1, no_speech_prob: 0 }));
const OUTPUT = {
  status: "success",
  segments: SEGMENTS.map((each, at) => ({ ...each, speaker: "AB"[at] })),
  word_timestamps: [{ word: "Is", start: 0, end: 0.2 }],
  transcription: "Is it? It is.",
  translation: null,
  detected_language: "en",
  language: "english",
  duration_sec: 1.5,
};
const done = (output = {}) => ({
  id: "job-1",
  status: "COMPLETED",
  output: { ...OUTPUT, ...output },
});

function formOf(fields = {}, file = new Blob(["RIFF sound"])) {
  const form = new FormData();
  if (file) form.append("file", file, "a.wav");
  for (const [name, values] of Object.entries(fields)) {
    for (const value of [values].flat()) form.append(name, value);
  }
  return form;
}

async function hear(form, options = {}, path = PATH) {
  const sent = new Response(form);
  const headers = { "Content-Type": sent.headers.get("Content-Type"), ...options.headers };
  const body = await sent.arrayBuffer();
  return await visit(path, { ...options, method: "POST", headers, body }).answer;
}

/** The official client, in front of this bridge. */
function client() {
  const fetch = async (url, init) => {
    const request = new Request(url, init);
    const headers = Object.fromEntries(request.headers);
    const body = await request.arrayBuffer();
    const path = new globalThis.URL(url).pathname;
    return await visit(path, { auth: "", method: "POST", headers, body }).answer;
  };
  return new OpenAI({ baseURL: "https://bridge.test/v1", apiKey: TOKEN, fetch, maxRetries: 0 });
}

const upload = () => new File(["RIFF sound"], "a.wav");

test("a form becomes a job with the worker's fields", async () => {
  const calls = network({ runsync: done() });
  const form = formOf({
    model: "whisper-1",
    language: "de",
    prompt: "Before.",
    "keywords[]": ["Kokoro", "Aoede"],
    "known_speaker_names[]": "Ann",
    "known_speaker_references[]": "data:audio/wav;base64,AAAA",
    response_format: "diarized_json",
    temperature: "0.2",
  });
  const answer = await hear(form, { headers: { "X-Request-ID": "mine" } });
  expect(answer.status).toBe(200);
  expect(calls[0].body.input).toEqual({
    task: "transcribe",
    audio_base64: btoa("RIFF sound"),
    language: "de",
    prompt: "Before.",
    temperature: "0.2",
    keywords: ["Kokoro", "Aoede"],
    known_speakers: { Ann: "data:audio/wav;base64,AAAA" },
    speakers: true,
    transcription: "plain_text",
    request_id: "mine",
  });
});

test("every form of an answer reaches the official client", async () => {
  network({ runsync: done() });
  const { transcriptions } = client().audio;
  const asked = (more) => transcriptions.create({ model: "whisper-1", file: upload(), ...more });
  expect(await asked({})).toEqual({
    text: OUTPUT.transcription,
    usage: { type: "duration", seconds: 2 },
  });
  expect(await asked({ response_format: "text" })).toBe("Is it? It is.\n");
  const verbose = await asked({
    response_format: "verbose_json",
    timestamp_granularities: ["word", "segment"],
  });
  expect(verbose).toMatchObject({ task: "transcribe", language: "english", duration: 1.5 });
  expect(verbose.segments[1]).toMatchObject(SEGMENTS[1]);
  expect(verbose.words).toEqual(OUTPUT.word_timestamps);
  const diarized = await asked({ response_format: "diarized_json", chunking_strategy: "auto" });
  expect(diarized.segments).toEqual([
    {
      type: "transcript.text.segment",
      id: "seg_0",
      start: 0,
      end: 0.5,
      speaker: "A",
      text: "Is it?",
    },
    {
      type: "transcript.text.segment",
      id: "seg_1",
      start: 1,
      end: 1.5,
      speaker: "B",
      text: "It is.",
    },
  ]);
});

test("a stream has the events of OpenAI's", async () => {
  network({ runsync: done() });
  const events = [];
  const stream = await client().audio.transcriptions.create({
    model: "gpt-4o-transcribe-diarize",
    file: upload(),
    response_format: "diarized_json",
    stream: true,
  });
  for await (const event of stream) events.push(event);
  expect(events.map(({ type }) => type)).toEqual([
    "transcript.text.delta",
    "transcript.text.segment",
    "transcript.text.segment",
    "transcript.text.done",
  ]);
  expect(events.at(-1).text).toBe(OUTPUT.transcription);
});

test("a translation is the job's, in English", async () => {
  const calls = network({ runsync: done({ translation: "It is open." }) });
  const answer = await client().audio.translations.create({ model: "whisper-1", file: upload() });
  expect(answer.text).toBe("It is open.");
  expect(calls[0].body.input.translate).toBe(true);
});

test.each([
  [formOf({}, null), 400, "file", "missing_required_parameter"],
  [formOf({ file: "a text" }, null), 400, "file", "invalid_type"],
  [formOf({ response_format: "docx" }), 400, "response_format", "unsupported_format"],
  [formOf({ "known_speaker_names[]": "Ann" }), 400, "known_speaker_references", "invalid_value"],
  [formOf({}, new Blob([new Uint8Array(15 * 2 ** 20)])), 413, "file", "request_too_large"],
])("what no job can be made of is refused: %#", async (form, status, param, code) => {
  const calls = network({});
  const answer = await hear(form);
  const { error } = await answer.json();
  expect([answer.status, error.param, error.code]).toEqual([status, param, code]);
  expect(calls).toEqual([]);
});

test("a worker's refusal names OpenAI's field", async () => {
  const error = "[invalid_value] audio_base64: the recording is not readable as audio";
  network({ runsync: { id: "job-1", status: "FAILED", error } });
  const answer = await hear(formOf());
  expect(answer.status).toBe(400);
  expect((await answer.json()).error).toMatchObject({
    param: "file",
    message: "file: the recording is not readable as audio",
  });
});

test("an answer without a transcript is an error", async () => {
  network({ runsync: { id: "job-1", status: "COMPLETED", output: { status: "success" } } });
  expect((await hear(formOf())).status).toBe(502);
});

test("a server gets the form as it came, and its answer goes back as it is", async () => {
  const got = [];
  vi.stubGlobal("fetch", async (url, init) => {
    const form = await new Response(init.body, { headers: init.headers }).formData();
    got.push([
      url,
      init.headers.get("Authorization"),
      form.get("model"),
      await form.get("file").text(),
    ]);
    return new Response("1\n...", {
      headers: {
        "Content-Type": "text/plain; charset=utf-8",
        "X-Speech-Ignored": "a",
        Server: "x",
      },
    });
  });
  const answer = await hear(formOf({ model: "whisper-1" }), { settings: DIRECT });
  expect(got).toEqual([[URL + PATH, "Bearer rpa_1", "whisper-1", "RIFF sound"]]);
  expect(await answer.text()).toBe("1\n...");
  expect(answer.headers.get("X-Speech-Ignored")).toBe("a");
  expect(answer.headers.get("Server")).toBe(null);
});

test("a server's refusal stays its own", async () => {
  const error = { message: "file: no.", type: "invalid_request_error", param: "file", code: "x" };
  vi.stubGlobal("fetch", async () => Response.json({ error }, { status: 400 }));
  const answer = await hear(formOf(), { settings: DIRECT });
  expect([answer.status, (await answer.json()).error]).toEqual([400, error]);
  vi.stubGlobal("fetch", async () => {
    throw new TypeError("unreachable");
  });
  expect((await hear(formOf(), { settings: DIRECT })).status).toBe(502);
});

test("models that listen are listed", async () => {
  network({ [ENDPOINT]: 500 });
  const listed = await (await visit("/v1/models").answer).json();
  expect(listed.data.map(({ id }) => id)).toContain("whisper-1");
});
