/**
 * How a job ended: the facts of a success, and the error that stands for any other end.
 *
 * The worker says what is wrong with a request as `field: problem (allowed: ...)`; see
 * docs/api.md. That is the caller's fault; everything else fails the same way again and costs again,
 * unless the worker says that it will not.
 */

import { failed, invalid } from "./errors.js";

/** @import { State } from "./answer.js" */
/** @import { ApiError } from "./errors.js" */
/** @import { Facts } from "./facts.js" */

export const ENDED = new Set(["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]);

/** What the worker says of a failure that another worker will not have. */
const TRY_AGAIN = ": send the job again";
const SOON_SEC = 2;

/** The worker's names for what OpenAI calls otherwise. */
const OPENAI_NAMES = new Map([
  ["text", "input"],
  ["speaker_name", "voice"],
  ["output_format", "response_format"],
]);
const REQUEST_FIELDS = new Set([
  ...OPENAI_NAMES.keys(),
  ...OPENAI_NAMES.values(),
  ...["speed", "seed", "steps", "cfg_scale", "loudness", "disable_prefill", "voice_url"],
  ...["pronunciations", "speakers", "request_id"],
]);

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
  };
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
  const sentence = typeof state.error === "string" ? state.error : outputOf(state).error;
  if (typeof sentence !== "string" || /^\s*[{[]|Traceback/.test(sentence)) {
    // What escapes a handler is reported with its traceback and the machine's paths.
    return failed(500, null, "The worker failed.", false);
  }
  if (sentence.endsWith(TRY_AGAIN)) return failed(503, "worker_unavailable", sentence, SOON_SEC);
  const field = /^(\w+)(?:\.\w+)?: /.exec(sentence)?.[1] ?? "";
  const message = sentence.slice(0, 2000);
  if (!REQUEST_FIELDS.has(field)) return failed(500, null, message, false);
  const param = OPENAI_NAMES.get(field) ?? field;
  if (/: no voice /.test(sentence)) return invalid(param, "voice_not_found", message, 404);
  return invalid(param, "invalid_value", message);
}
