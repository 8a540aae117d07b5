/** RUNPOD_STREAM: audio while the worker speaks. */

import { afterEach, expect, test, vi } from "vitest";
import { audio, completed, eventsOf, network, SPEECH, speak, visit } from "./fakes.js";

afterEach(() => vi.unstubAllGlobals());

const RUN = { id: "job-1", status: "IN_QUEUE" };
const settings = { RUNPOD_STREAM: "true" };
const BYTES = audio("mp3", 9000);
const piece = (index, from, to, is_last = false) => ({
  output: { index, audio_chunk: BYTES.slice(from, to).toBase64(), format: "mp3", is_last },
});
const shows = (status, ...stream) => ({ status, stream });
const facts = { output: { status: "success", seed: 9, duration_sec: 3 } };
const ended = completed(null, { seed: 9, duration_sec: 3 });
const whole = [
  shows("IN_QUEUE"),
  shows("IN_PROGRESS", piece(0, 0, 10)),
  shows("IN_PROGRESS"),
  shows("IN_PROGRESS", piece(1, 10, 4000), piece(2, 4000, 8999)),
  shows("COMPLETED", piece(3, 8999, 9000, true), facts),
  shows("COMPLETED"),
];

test("the pieces are one file", async () => {
  const calls = network({ run: RUN, stream: [...whole], status: ended });
  const answer = await speak({}, { settings });
  expect(answer.status).toBe(200);
  expect(answer.bytes).toEqual(BYTES);
  expect(calls[0].body.input.stream).toBe(true);
  expect(answer.headers.get("X-Speech-Job")).toBe("job-1");
});

test("a flac comes whole, with a header that says its length", async () => {
  const flac = audio("flac");
  const calls = network({ runsync: completed(flac, { format: "flac" }) });
  const answer = await speak({ response_format: "flac" }, { settings });
  expect([answer.status, answer.bytes]).toEqual([200, flac]);
  expect(calls.map(({ kind, body }) => [kind, body.input.stream])).toEqual([
    ["runsync", undefined],
  ]);
});

test("the first bytes come before the job has ended", async () => {
  network({ run: RUN, stream: whole.slice(0, 3), status: ended, cancel: {} });
  const headers = { "Content-Type": "application/json" };
  const caller = new AbortController();
  const init = { method: "POST", headers, body: JSON.stringify(SPEECH), signal: caller.signal };
  const { answer, settled } = visit("/v1/audio/speech", { ...init, settings });
  const reader = (await answer).body.getReader();
  expect((await reader.read()).value).toEqual(BYTES.slice(0, 10));
  reader.cancel();
  caller.abort();
  await settled();
});

test("events have the seconds that are known in the end", async () => {
  network({ run: RUN, stream: [...whole], status: ended });
  const events = eventsOf((await speak({ stream_format: "sse" }, { settings })).text());
  expect(events.at(-2).usage.output_tokens).toBe(75);
  expect(events.at(-1)).toBe("[DONE]");
});

test("events tell what the worker heard of each chunk, its words and the subtitles", async () => {
  const word = (text_start) => ({ word: "Hi", start_sec: 0, end_sec: 1, text_start, text_end: 9 });
  const heard = { heard: "Hi.", wer: 0.5, missing: ["there"], added: [] };
  const chunks = [
    { index: 0, text_start: 0, text_end: 10, ...heard },
    { index: 1, text_start: 11, text_end: 20 },
    { index: 2, text_start: 21, text_end: 30 },
  ];
  const known = { chunks, words: [word(0), word(11)], subtitles: "WEBVTT\n" };
  network({ run: RUN, stream: [...whole], status: completed(null, known) });
  const asked = { stream_format: "sse", verify: "warn", timestamps: "word", subtitles: "vtt" };
  const events = eventsOf((await speak(asked, { settings })).text());
  expect(events.slice(-5, -2)).toEqual([
    { type: "speech.audio.heard", chunk: 0, ...heard, words: [word(0)] },
    { type: "speech.audio.heard", chunk: 1, words: [word(11)] },
    { type: "speech.audio.subtitles", subtitles: "WEBVTT\n" },
  ]);
});

test("a worker that does not stream answers in one piece", async () => {
  network({ run: RUN, stream: shows("COMPLETED"), status: completed() });
  expect((await speak({}, { settings })).bytes).toEqual(audio());
});

test("a job that fails before its first piece is an error like any other", async () => {
  const error = "[invalid_type] seed: 'x' is not a whole number (allowed: a whole number)";
  network({ run: RUN, stream: shows("FAILED"), status: { id: "job-1", status: "FAILED", error } });
  const answer = await speak({}, { settings });
  expect([answer.status, answer.error.param]).toEqual([400, "seed"]);
});

const failures = {
  "a job that fails": [whole[1], shows("FAILED")],
  "a piece that is missing": [whole[1], shows("IN_PROGRESS", piece(2, 10, 20))],
  "an end that is missing": [whole[1], shows("COMPLETED")],
  "a piece after the last": [
    whole[1],
    shows("IN_PROGRESS", piece(1, 0, 4, true)),
    shows("COMPLETED", piece(2, 0, 4)),
  ],
};
for (const [what, stream] of Object.entries(failures)) {
  const status =
    stream.at(-1).status === "FAILED" ? { id: "job-1", status: "FAILED", error: "gone" } : ended;

  test(`${what} breaks the answer off`, async () => {
    network({ run: RUN, stream: [...stream], status, cancel: {} });
    const answer = await speak({}, { settings });
    expect([answer.status, answer.broken]).toEqual([200, true]);
  });

  test(`${what} is an event of its own and no [DONE]`, async () => {
    network({ run: RUN, stream: [...stream], status, cancel: {} });
    const events = eventsOf((await speak({ stream_format: "sse" }, { settings })).text());
    expect(events.at(-1).type).toBe("error");
    expect(events.some((event) => event === "[DONE]" || event.usage)).toBe(false);
  });
}

test("what is broken off is cancelled", async () => {
  const calls = network({
    run: RUN,
    stream: [whole[1], shows("IN_PROGRESS", piece(2, 10, 20))],
    status: ended,
    cancel: {},
  });
  await speak({}, { settings });
  expect(calls.at(-1).path).toBe("cancel/job-1");
});

test("a call that fails on the way is made again", async () => {
  network({ run: RUN, stream: [whole[1], 502, ...whole.slice(2)], status: ended });
  expect((await speak({}, { settings })).bytes).toEqual(BYTES);
});

test("a caller who leaves cancels the job", async () => {
  const calls = network({ run: RUN, stream: [whole[1], whole[2]], status: ended, cancel: {} });
  const headers = { "Content-Type": "application/json" };
  const caller = new AbortController();
  const init = { method: "POST", headers, body: JSON.stringify(SPEECH), signal: caller.signal };
  const { answer, settled } = visit("/v1/audio/speech", { ...init, settings });
  const { body } = await answer;
  caller.abort();
  body.cancel().catch(() => {});
  await settled();
  expect(calls.filter(({ kind }) => kind === "cancel")).toHaveLength(1);
});
