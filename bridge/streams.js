/** Streams of bytes, as the runtime does them best. */

import { ApiError, failed } from "./errors.js";

const BLOCK = 64 * 1024;

/** @typedef {{ readable: ReadableStream<Uint8Array>, writable: WritableStream<Uint8Array> }} Pipe */

/**
 * A pipe for a body. One whose length is known declares it, and breaks the connection off where
 * the bytes end before.
 *
 * @param {number | null} length
 * @returns {Pipe}
 */
export function pipe(length) {
  // The runtime's own streams: those made of JavaScript were seen to stall on the network's edge.
  return length === null ? new IdentityTransformStream() : new FixedLengthStream(length);
}

/**
 * The bytes of a stream. Raises a 504 where none come for `idleMs`, and a 502 where it breaks off.
 *
 * @param {ReadableStream<Uint8Array> | null} stream
 * @param {number} [idleMs]
 * @returns {AsyncGenerator<Uint8Array>}
 */
export async function* bytesOf(stream, idleMs) {
  if (!stream) return;
  const reader = readerOf(stream);
  reader.closed.catch(() => {}); // each read tells it
  let waitsSince = 0;
  let stalled = false;
  // One timer for all reads; while the caller takes its time, nobody waits.
  const watch = () => {
    stalled ||= waitsSince > 0 && Date.now() - waitsSince > (idleMs ?? 0);
    if (stalled) reader.cancel().catch(() => {});
  };
  const timer = idleMs && setInterval(watch, idleMs / 4);
  try {
    for (;;) {
      waitsSince = Date.now();
      const { done, value } = await reader.read(new Uint8Array(BLOCK)).catch(brokenOff);
      waitsSince = 0;
      if (stalled) throw failed(504, "timeout", "The audio stands still.", false);
      if (done) return;
      yield value;
    }
  } finally {
    if (timer) clearInterval(timer);
    await reader.cancel().catch(() => {}); // it may have failed already
  }
}

/**
 * A reader that gives what is there, up to the size of the block that it is handed. By default the
 * runtime gives 4 KiB at a time, at a fifth of the speed.
 *
 * @param {ReadableStream<Uint8Array>} stream
 */
function readerOf(stream) {
  try {
    return stream.getReader({ mode: "byob" });
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    return /** @type {any} */ (stream.getReader()); // it is no stream of bytes, but of chunks
  }
}

/** @param {unknown} error @returns {never} */
function brokenOff(error) {
  if (error instanceof ApiError) throw error;
  throw failed(502, "upstream_error", "The connection broke off.", false);
}
