/**
 * Speech on its way to a caller: bytes, and what is known about them.
 *
 * A body begins with bytes that were looked at, and its length is declared wherever it is known.
 * One that fails breaks its connection off: no caller takes it for whole.
 */

import { enough, looksLike } from "./audio.js";
import { asApiError, failed } from "./errors.js";
import { pipe } from "./streams.js";

/** @import { Kind } from "./audio.js" */
/** @import { Facts } from "./facts.js" */

/**
 * @typedef {object} Speech
 * @property {AsyncGenerator<Uint8Array>} chunks of the body; closed by whoever reads them
 * @property {number | null} length of the body in bytes, if known
 * @property {boolean} [unsure] whether the body may end before its end without a sign of it
 * @property {string} contentType
 * @property {() => Facts} facts what is known by now; all of it once the chunks have ended
 */

/**
 * The same bytes, after a look at the first ones. Raises a 502 where they are not of that kind.
 *
 * @param {AsyncGenerator<Uint8Array>} chunks
 * @param {Kind} kind
 * @returns {Promise<AsyncGenerator<Uint8Array>>}
 */
export async function checked(chunks, kind) {
  /** @type {Uint8Array[]} */
  const first = [];
  const needed = enough(kind);
  for (let count = 0; count < needed; ) {
    const { done, value } = await chunks.next();
    if (done) break;
    first.push(value);
    count += value.length;
  }
  const head = first.flatMap((bytes) => [...bytes.subarray(0, needed)]);
  if (looksLike(kind, new Uint8Array(head))) return joined(first, chunks);
  await chunks.return(undefined);
  throw failed(502, "upstream_error", `What came is no ${kind}.`, false);
}

/** @param {Uint8Array[]} first @param {AsyncGenerator<Uint8Array>} rest */
async function* joined(first, rest) {
  try {
    yield* first;
    yield* rest;
  } finally {
    await rest.return(undefined); // where the reader leaves among the first
  }
}

/**
 * The same speech. What breaks it off goes to the log, whose line for the request was written when
 * the answer began.
 *
 * @param {Speech} speech
 * @param {string} id of the request
 * @returns {Speech}
 */
export function noted(speech, id) {
  return { ...speech, chunks: watched(speech.chunks, id) };
}

/** @param {AsyncGenerator<Uint8Array>} chunks @param {string} id */
async function* watched(chunks, id) {
  try {
    yield* chunks;
  } catch (error) {
    const { status, body } = asApiError(error);
    console.warn(JSON.stringify({ request: id, broke_off: status, code: body.error.code }));
    throw error;
  }
}

/**
 * A body that gives the chunks as its reader takes them, and breaks off where they fail.
 *
 * @param {Speech} speech
 * @param {(work: Promise<unknown>) => void} waitUntil
 * @returns {ReadableStream<Uint8Array>}
 */
export function bodyOf({ chunks, length }, waitUntil) {
  const { readable, writable } = pipe(length);
  waitUntil(pump(chunks, writable.getWriter()));
  return readable;
}

/**
 * @param {AsyncGenerator<Uint8Array>} chunks
 * @param {WritableStreamDefaultWriter<Uint8Array>} writer
 */
async function pump(chunks, writer) {
  try {
    for await (const bytes of chunks) if (bytes.length) await writer.write(bytes);
    await writer.close();
  } catch (error) {
    await writer.abort(error).catch(() => {}); // it fails where the reader has left
  }
}
