/**
 * One job of a queue endpoint, from its submission to its end.
 *
 * It is submitted once, or joined where the same request is at work already; it is cancelled when
 * its last caller leaves or its time is over.
 */

import { ApiError, asApiError, failed } from "./errors.js";
import { ENDED, failureOf } from "./outcome.js";

/** @import { Answer, State } from "./answer.js" */
/** @import { Claim } from "./claims.js" */
/** @import { RunPod } from "./runpod.js" */
/** @import { Settings } from "./settings.js" */

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 900;
/** Beyond the wait of the one who submits: to tell the job's id. */
const PATIENCE_MS = 5_000;
const COLD_START_SEC = 30;

/**
 * @typedef {object} Call what a request brings along besides what it asks for
 * @property {string} id
 * @property {AbortSignal} signal aborted when the caller leaves
 * @property {(work: Promise<unknown>) => void} waitUntil for what has to outlive the caller
 * @property {Claim} claim
 */

export class Job {
  /** @param {RunPod} runpod @param {Settings} settings @param {Call} call @param {number} [start] */
  constructor(runpod, settings, call, start = Date.now()) {
    this.runpod = runpod;
    this.settings = settings;
    this.call = call;
    this.start = start;
    this.latestStart = Date.now() + settings.queueTimeoutMs;
    this.latestEnd = start + settings.jobTimeoutMs;
    this.joined = false;
    this.ended = false;
  }

  /**
   * The answer of a job that succeeded.
   *
   * @param {object} input
   * @param {string | null} [gone] the id of a job that was not there to be joined
   * @returns {Promise<Answer>}
   */
  async answer(input, gone = null) {
    const joined = await this.call.claim.open(this.settings.waitMs + PATIENCE_MS, gone);
    if (!joined) return await this.whole(this.submit(input));
    this.joined = true;
    try {
      const state = { id: joined, status: "IN_QUEUE" };
      return await this.whole(Promise.resolve({ state, audio: [] }));
    } catch (error) {
      if (this.call.signal.aborted || gone || !isGone(error)) throw error;
      this.ended = true;
      const next = new Job(this.runpod, this.settings, this.call, this.start);
      return await next.answer(input, joined);
    }
  }

  /** @param {object} input @returns {Promise<Answer>} */
  async submit(input) {
    const { claim } = this.call;
    try {
      this.checkCaller();
      const answer = await this.runpod.runsync(this.wire(input), this.settings.waitMs);
      claim.tell(answer.state.id);
      return answer;
    } catch (error) {
      claim.drop();
      throw error;
    }
  }

  /**
   * Begins a job whose audio is read piece by piece.
   *
   * @param {object} input
   * @returns {Promise<string>} its id
   */
  async begin(input) {
    this.checkCaller();
    const begun = this.runpod.run(this.wire(input));
    this.cancelWithCaller(begun);
    return (await begun).state.id;
  }

  /** @param {object} input */
  wire(input) {
    // What is cancelled by nobody, because the bridge is gone, ends by itself.
    return { input, policy: { ttl: this.settings.jobTimeoutMs } };
  }

  /** @param {Promise<Answer>} begun @returns {Promise<Answer>} */
  async whole(begun) {
    this.cancelWithCaller(begun);
    let answer = await begun;
    const id = answer.state.id;
    let pause = FIRST_PAUSE_MS;
    while (!ENDED.has(answer.state.status)) {
      await scheduler.wait(pause);
      this.check(id, answer.state);
      pause = Math.min(pause * 1.25, LONGEST_PAUSE_MS);
      answer = await this.orCancel(id, this.runpod.status(id));
    }
    this.ended = true;
    if (answer.state.status === "COMPLETED") return answer;
    const failure = failureOf({ ...answer.state, id });
    if ("Retry-After" in failure.headers) this.call.claim.drop();
    throw failure;
  }

  /**
   * @template T
   * @param {string} id
   * @param {Promise<T>} work
   * @returns {Promise<T>}
   */
  async orCancel(id, work) {
    try {
      return await work;
    } catch (error) {
      if (!this.joined || !isGone(error)) this.cancel(id);
      throw error;
    }
  }

  /** Raises where nobody waits any more. */
  checkCaller() {
    if (this.call.signal.aborted) throw failed(499, null, "The caller has left.", false);
  }

  /**
   * Raises where nobody waits for a job any more, or its time is over; the latter cancels it.
   *
   * @param {string} id
   * @param {State} state
   */
  check(id, state) {
    this.checkCaller();
    if (state.status === "IN_QUEUE" && Date.now() > this.latestStart) {
      this.cancel(id);
      const problem = "No worker has taken the job yet; one may be starting.";
      throw failed(503, "worker_unavailable", problem, COLD_START_SEC);
    }
    if (Date.now() > this.latestEnd) {
      this.cancel(id);
      throw failed(504, "timeout", "The job took longer than it may.", false);
    }
  }

  /** @param {string} id */
  cancel(id) {
    if (this.ended) return;
    this.ended = true;
    this.call.claim.drop();
    this.call.waitUntil(this.runpod.cancel(id).catch(runsOn));
  }

  /** @param {Promise<Answer>} begun */
  cancelWithCaller(begun) {
    const { signal, waitUntil, claim } = this.call;
    const leave = async () => {
      // Until RunPod has told it, nobody knows the id of the job that is to be cancelled.
      const { state } = await begun;
      if (this.ended || ENDED.has(state.status)) return;
      if (await claim.leave()) this.cancel(state.id);
    };
    const left = () => waitUntil(leave().catch(() => {}));
    if (signal.aborted) left();
    else signal.addEventListener("abort", left, { once: true });
  }
}

/** Its time to live ends the job, too. @param {unknown} error */
function runsOn(error) {
  console.warn(`a job could not be cancelled: ${asApiError(error).message}`);
}

/** Whether a job that was joined is no longer there to be joined. @param {unknown} error */
function isGone(error) {
  const code = error instanceof ApiError ? error.body.error.code : null;
  return code === "upstream_refused" || code === "job_cancelled";
}
