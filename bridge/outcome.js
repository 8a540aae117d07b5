/**
 * How a job ended: the facts of a success, and the error that stands for any other end.
 *
 * A worker's error begins with its code, `[code] field: problem`; docs/api.md lists the codes, and
 * `codes.json` says what each means. What has no code, of an older worker or of RunPod itself, may be
 * a traceback, so its words are not shown.
 */

import codes from "./codes.json";
import { failed, invalid } from "./errors.js";

/** @import { State } from "./answer.js" */
/** @import { ApiError } from "./errors.js" */
/** @import { Facts } from "./facts.js" */

export const ENDED = new Set(["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]);

/** @type {Record<string, { status: number, retry: number | null }>} */
const CODES = codes;
/** Only a refusal names a field. */
const CODED = /^\[(\w+)\] (?:(\w+)[.\w]*: )?/;
const MOST_MESSAGE = 2000;

/**
 * What a worker's answer says: a worker that can stream gives a list, whose last item counts.
 *
 * @param {State} state
 * @returns {Record<string, any>}
 */
export function outputOf(state) {
  const output = Array.isArray(state.output) ? state.output.at(-1) : state.output;
  return typeof output === "object" && output !== null ? output : {};
}

/** @param {State} state @returns {Facts} */
export function factsOf(state) {
  const output = outputOf(state);
  const timings = output.timings ?? {};
  const seconds = (/** @type {unknown} */ value) =>
    typeof value === "number" ? Math.round(value * 1000) : undefined;
  return {
    engine: text(output.engine),
    voice: text(output.voice),
    seed: count(output.seed),
    seconds: count(output.duration_sec),
    queueMs: count(state.delayTime) ?? seconds(timings.queue_sec),
    synthMs: count(state.executionTime) ?? seconds(timings.total_sec),
    warnings: Array.isArray(output.warnings) ? output.warnings.map(String) : [],
    job: text(state.id),
    heard: heardOf(output),
    subtitles: text(output.subtitles),
  };
}

/**
 * What the worker heard of each chunk, as its own server tells it: api/sse.py.
 *
 * @param {Record<string, any>} output
 * @returns {Record<string, unknown>[]}
 */
function heardOf({ chunks, words }) {
  if (!Array.isArray(chunks)) return [];
  const all = Array.isArray(words) ? words : [];
  return chunks.flatMap(
    ({ index, heard, wer, missing, added, text_start: start, text_end: end }) => {
      const own = all.filter((word) => word.text_start >= start && word.text_start < end);
      const known = { heard, wer, missing, added, ...(own.length && { words: own }) };
      return own.length || heard !== undefined ? [{ chunk: index, ...known }] : [];
    },
  );
}

const text = (/** @type {unknown} */ value) => (typeof value === "string" ? value : undefined);
const count = (/** @type {unknown} */ value) => (typeof value === "number" ? value : undefined);

/**
 * The error for a job that has ended without success.
 *
 * @param {State} state
 * @returns {ApiError}
 */
export function failureOf(state) {
  if (state.status === "TIMED_OUT") {
    return failed(504, "timeout", "The job took longer than it may.", false);
  }
  if (state.status === "CANCELLED") {
    return failed(500, "job_cancelled", "The job was cancelled.", false);
  }
  const error = typeof state.error === "string" ? state.error : outputOf(state).error;
  const [, code = "", field = null] = CODED.exec(error) ?? [];
  if (!Object.hasOwn(CODES, code)) {
    return failed(500, null, "The worker failed; RunPod shows why, by the job's id.", false);
  }
  const { status, retry } = CODES[code];
  const message = error.slice(`[${code}] `.length).slice(0, MOST_MESSAGE);
  if (status < 500) return invalid(field, code, message, status);
  return failed(status, code, message, retry ?? false);
}
