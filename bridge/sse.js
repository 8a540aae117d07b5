/**
 * Speech as server-sent events, byte for byte as OpenAI sends them: 4096 bytes of the file in each
 * delta, then the usage, then [DONE]. What fails on the way is an event with `error`, which SDKs
 * raise, and no [DONE].
 *
 * `usage` counts tokens as nobody here has them: four bytes of text are one, and so are 40 ms of
 * audio, which is about what OpenAI's own models come to.
 */

import { EVENTS } from "./audio.js";
import { asApiError } from "./errors.js";

/** @import { Speech } from "./speech.js" */

const SLICE = 4096;
const BYTES_A_TOKEN = 4;
const TOKENS_A_SECOND = 25;

/**
 * @param {Speech} speech
 * @param {string} text what is spoken
 * @returns {Speech}
 */
export function asEvents(speech, text) {
  return { ...speech, chunks: events(speech, text), length: null, contentType: EVENTS };
}

/** @param {Speech} speech @param {string} text */
async function* events(speech, text) {
  const encoder = new TextEncoder();
  const deltas = new Deltas();
  try {
    for await (const bytes of speech.chunks) yield encoder.encode(deltas.feed(bytes));
    yield encoder.encode(deltas.end());
    const { seconds = 0, heard = [], subtitles } = speech.facts();
    for (const chunk of heard) {
      yield encoder.encode(event({ type: "speech.audio.heard", ...chunk }));
    }
    if (subtitles !== undefined) {
      yield encoder.encode(event({ type: "speech.audio.subtitles", subtitles }));
    }
    const usage = usageOf(text, seconds);
    yield encoder.encode(event({ type: "speech.audio.done", usage }));
    yield encoder.encode("data: [DONE]\r\n\r\n");
  } catch (error) {
    yield encoder.encode(errorEvent(error));
  }
}

/**
 * Speech that is another server's events, and one more for what fails on the way.
 *
 * @param {Speech} speech
 * @returns {Speech}
 */
export function withError(speech) {
  return { ...speech, chunks: andError(speech.chunks), length: null };
}

/** @param {AsyncGenerator<Uint8Array>} chunks */
async function* andError(chunks) {
  try {
    yield* chunks;
  } catch (error) {
    // What broke off may be in the middle of an event.
    yield new TextEncoder().encode(`\r\n\r\n${errorEvent(error)}`);
  }
}

/** @param {unknown} error */
function errorEvent(error) {
  const { message, type, code } = asApiError(error).body.error;
  return event({ type: "error", error: { message, type, param: null, code } });
}

/** Bytes of any number into events of 4096 each. */
class Deltas {
  constructor() {
    this.rest = new Uint8Array(0);
  }

  /** @param {Uint8Array} bytes */
  feed(bytes) {
    const all = new Uint8Array(this.rest.length + bytes.length);
    all.set(this.rest);
    all.set(bytes, this.rest.length);
    let events = "";
    let at = 0;
    for (; at + SLICE <= all.length; at += SLICE) events += delta(all.subarray(at, at + SLICE));
    this.rest = all.slice(at);
    return events;
  }

  end() {
    return this.rest.length ? delta(this.rest) : "";
  }
}

/** @param {Uint8Array} bytes */
function delta(bytes) {
  return event({ type: "speech.audio.delta", audio: bytes.toBase64() });
}

/** @param {object} data */
export function event(data) {
  return `data: ${JSON.stringify(data)}\r\n\r\n`;
}

/** @param {string} text @param {number} seconds */
function usageOf(text, seconds) {
  const input = Math.ceil(new TextEncoder().encode(text).length / BYTES_A_TOKEN);
  const output = Math.ceil(seconds * TOKENS_A_SECOND);
  return { input_tokens: input, output_tokens: output, total_tokens: input + output };
}
