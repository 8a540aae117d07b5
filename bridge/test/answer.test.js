/** Answers of RunPod, read in pieces of every size. */

import { expect, test } from "vitest";
import { AnswerReader, BadAnswer, readAnswer } from "../answer.js";
import { audio } from "./fakes.js";

const encode = (text) => new TextEncoder().encode(text);
const joined = (chunks) => new Uint8Array(chunks.flatMap((bytes) => [...bytes]));

function read(text, size) {
  const reader = new AnswerReader();
  const bytes = encode(text);
  for (let at = 0; at < bytes.length; at += size) reader.feed(bytes.subarray(at, at + size));
  return reader.end();
}

const BYTES = audio("mp3", 100);
const BASE64 = BYTES.toBase64();
const ANSWER = JSON.stringify({
  note: 'a "quoted" \\ é text: "audio_base64": "AAAA"',
  audio_base64_not: "AAAA",
  output: { audio_base64: BASE64, after: ["audio_base64", ":", { x: 1 }] },
});

test.each([1, 2, 3, 5, 7, 64, 1000])("is the same in pieces of %i bytes", (size) => {
  const { state, audio: chunks } = read(ANSWER, size);
  expect(joined(chunks)).toEqual(BYTES);
  const expected = JSON.parse(ANSWER);
  expected.output.audio_base64 = "";
  expect(state).toEqual(expected);
});

test.each([0, 1, 2, 3, 4, 5])("audio of %i bytes needs no special care", (length) => {
  const bytes = audio("pcm", 10).slice(0, length);
  const text = JSON.stringify({ audio_base64: bytes.toBase64() });
  for (const size of [1, 3, 100]) expect(joined(read(text, size).audio)).toEqual(bytes);
});

test.each([1, 2, 1000])("slashes may be escaped, in pieces of %i bytes", (size) => {
  const text = `{"audio_base64": "${BASE64.replaceAll("/", "\\/")}"}`;
  expect(joined(read(text, size).audio)).toEqual(BYTES);
});

test("white space before and after the colon is fine", () => {
  expect(joined(read('{"audio_base64"\n:\t "AAAA"}', 1).audio)).toEqual(new Uint8Array(3));
});

test("audio that is no string is left to the reader of the state", () => {
  expect(read('{"audio_base64": null, "x": "AAAA"}', 1)).toEqual({
    state: { audio_base64: null, x: "AAAA" },
    audio: [],
  });
});

test.each([
  "",
  "{",
  "null",
  '"text"',
  '{"audio_base64": "A"}',
  '{"audio_base64": "A*AA"}',
  '{"audio_base64": "AA==AAAA"}',
  '{"audio_base64": "\\u002b"}',
  '{"audio_base64": "AAAA',
])("%s is refused", (text) => {
  for (const size of [1, 100]) expect(() => read(text, size)).toThrow(BadAnswer);
});

test("an answer without an end is given up", async () => {
  const piece = new Uint8Array(1 << 20).fill(0x41);
  const endless = new ReadableStream({
    start: (controller) => controller.enqueue(encode('{"audio_base64": "')),
    pull: (controller) => controller.enqueue(piece),
  });
  await expect(readAnswer(endless)).rejects.toThrow(BadAnswer);
  const talk = new ReadableStream({ pull: (controller) => controller.enqueue(piece) });
  await expect(readAnswer(talk)).rejects.toThrow(BadAnswer);
});
