/**
 * A job's audio while it is made: RunPod's /stream, asked again and again.
 *
 * The bytes are one continuous file. A job that fails, a piece that is missing and an end that is
 * not marked as the end raise an error; so does a caller that is told to stop.
 */

import { failed } from "./errors.js";
import { follow } from "./link.js";
import { ENDED, factsOf, failureOf, outputOf } from "./outcome.js";
import { bytesOf } from "./streams.js";

/** @import { Facts } from "./facts.js" */
/** @import { Job } from "./job.js" */

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 500;

/**
 * @param {Job} job
 * @param {string} id
 * @param {(facts: Facts) => void} tell what is known in the end
 * @returns {AsyncGenerator<Uint8Array>}
 */
export async function* piecesOf(job, id, tell) {
  const { runpod } = job;
  let count = 0;
  let last = false;
  let pause = FIRST_PAUSE_MS;
  try {
    for (;;) {
      const { state, audio } = await runpod.stream(id);
      const items = Array.isArray(state.stream) ? state.stream.map((item) => item?.output) : [];
      for (const item of items.filter((each) => each && "audio_chunk" in each)) {
        if (item.index !== count++ || last) throw brokenOff("a piece is missing");
        last = item.is_last === true;
      }
      yield* count ? audio : [];
      if (ENDED.has(state.status) && !items.length) break;
      pause = items.length ? FIRST_PAUSE_MS : Math.min(pause * 1.5, LONGEST_PAUSE_MS);
      await scheduler.wait(pause);
      job.check(id, state);
    }
    const { state, audio } = await runpod.status(id);
    job.ended = true;
    if (state.status !== "COMPLETED") throw failureOf(state);
    const url = outputOf(state).audio_url;
    if (count && !last) throw brokenOff("its end is missing");
    // A worker without STREAM_JOBS answers in one piece.
    if (!count) yield* audio;
    if (!count && typeof url === "string") {
      const { idleTimeoutMs } = job.settings;
      yield* bytesOf((await follow(url, job.settings)).body, idleTimeoutMs);
    }
    tell(factsOf(state));
  } finally {
    job.cancel(id);
  }
}

/** @param {string} problem */
function brokenOff(problem) {
  return failed(502, "upstream_error", `The stream broke off: ${problem}.`, false);
}
