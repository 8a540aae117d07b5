/** The six formats: their content types, and how a file of each begins. */

import schema from "./request.schema.json";

/** @typedef {"mp3" | "opus" | "aac" | "flac" | "wav" | "pcm"} Format */

/** @type {Record<Format, string>} */
export const CONTENT_TYPES = {
  mp3: "audio/mpeg",
  opus: "audio/opus",
  aac: "audio/aac",
  flac: "audio/flac",
  wav: "audio/wav",
  pcm: "audio/pcm",
};

/** Of server-sent events. */
export const EVENTS = "text/event-stream; charset=utf-8";

export const FORMATS = /** @type {Format[]} */ (schema.properties.response_format.enum);

/** @typedef {Format | "sse"} Kind */

/** @type {Record<Kind, RegExp>} */
const BEGINNINGS = {
  mp3: /^(ID3|\xff[\xe2-\xff])/,
  opus: /^OggS/,
  aac: /^\xff[\xf0-\xff]/,
  flac: /^fLaC/,
  wav: /^RIFF/,
  pcm: /^(?!\s*(<[!?a-z]|\{\s*"))/i, // it has no head of its own: no page, no JSON
  sse: /^(data|:)/,
};

/** The bytes that `looksLike` needs to see. @param {Kind} kind */
export const enough = (kind) => (kind === "pcm" ? 16 : 4);

/**
 * Whether an answer of that kind can begin like this: an error page, say, cannot.
 *
 * @param {Kind} kind
 * @param {Uint8Array} bytes
 */
export function looksLike(kind, bytes) {
  return (
    bytes.length > 0 && BEGINNINGS[kind].test(String.fromCharCode(...bytes.slice(0, enough(kind))))
  );
}
