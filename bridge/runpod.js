/**
 * RunPod's API for a queue endpoint: one method a call, and what each failure means to a caller.
 *
 * What reached RunPod may be at work there and cost money, so only what surely never began, or is
 * temporary by its nature, may be tried again by an SDK.
 */

import { BadAnswer, readAnswer } from "./answer.js";
import { ApiError, failed, invalid } from "./errors.js";
import { fetchWithin, NetworkError } from "./net.js";

/** @import { Answer } from "./answer.js" */

const SOON_SEC = 2;
/** Beyond the wait that was asked for: what a slow network may take. */
const SLACK_MS = 10_000;
const MOST_FAILURES = 12;
/** An id becomes part of addresses. */
const JOB_ID = /^[\w-]{1,128}$/;

export class RunPod {
  /** @param {string} url @param {string} key */
  constructor(url, key) {
    this.url = url;
    this.key = key;
  }

  /**
   * Submits a job and waits for it, up to `waitMs`.
   *
   * @param {object} job
   * @param {number} waitMs
   * @returns {Promise<Answer>}
   */
  async runsync(job, waitMs) {
    return this.started(await this.call(`runsync?wait=${waitMs}`, job, waitMs + SLACK_MS));
  }

  /** @param {object} job @returns {Promise<Answer>} */
  async run(job) {
    return this.started(await this.call("run", job, SLACK_MS));
  }

  /** @param {Response} response */
  async started(response) {
    const answer = await this.answer(response);
    const { id, status } = answer.state;
    if (typeof status !== "string" || !JOB_ID.test(String(id))) throw unreadable();
    return answer;
  }

  /** @param {string} id @returns {Promise<Answer>} */
  async status(id) {
    return this.persistently(() => this.look(`status/${id}`));
  }

  /**
   * The pieces that came since the last call. RunPod shows each of them once: those of an answer
   * that is lost are missing from the next.
   *
   * @param {string} id
   * @returns {Promise<Answer>}
   */
  async stream(id) {
    return this.persistently(() => this.look(`stream/${id}`));
  }

  /** @param {string} path */
  async look(path) {
    const answer = await this.answer(await this.call(path, null, SLACK_MS));
    if (typeof answer.state.status !== "string") throw unreadable();
    return answer;
  }

  /** @param {string} id */
  async cancel(id) {
    const response = await this.persistently(() => this.call(`cancel/${id}`, {}, SLACK_MS));
    await response.body?.cancel();
  }

  /**
   * @param {string} path
   * @param {object | null} body posted, if there is one
   * @param {number} timeoutMs until the answer begins
   * @returns {Promise<Response>} one with a status of success
   */
  async call(path, body, timeoutMs) {
    const init = {
      method: body ? "POST" : "GET",
      headers: {
        ...(body && { "Content-Type": "application/json" }),
        ...(this.key && { Authorization: `Bearer ${this.key}` }),
      },
      body: body && JSON.stringify(body),
      // Of the whole answer; its headers may come long before it.
      signal: AbortSignal.timeout(timeoutMs + SLACK_MS),
    };
    let response;
    try {
      response = await fetchWithin(`${this.url}/${path}`, init, timeoutMs);
    } catch (error) {
      if (!(error instanceof NetworkError)) throw error;
      if (error.late) throw failed(504, "timeout", "RunPod did not answer in time.", false);
      throw failed(502, "upstream_error", "RunPod cannot be reached.", SOON_SEC);
    }
    if (response.ok) return response;
    await response.body?.cancel();
    throw refusal(response);
  }

  /** @param {Response} response @returns {Promise<Answer>} */
  async answer(response) {
    try {
      return await readAnswer(response.body);
    } catch (error) {
      throw error instanceof BadAnswer ? unreadable() : error;
    }
  }

  /**
   * A job is not given up for a few calls that fail on the way to it.
   *
   * @template T
   * @param {() => Promise<T>} attempt
   * @returns {Promise<T>}
   */
  async persistently(attempt) {
    for (let failures = 1; ; failures++) {
      try {
        return await attempt();
      } catch (error) {
        const status = error instanceof ApiError ? error.status : 0;
        const lasting = error instanceof ApiError && error.body.error.code === LASTING;
        if (![429, 502, 504].includes(status) || lasting || failures === MOST_FAILURES) throw error;
        await scheduler.wait(Math.min(100 * 2 ** failures, 900));
      }
    }
  }
}

const LASTING = "upstream_refused";

/** @param {Response} response */
function refusal(response) {
  const { status } = response;
  const later = Number(response.headers.get("Retry-After"));
  if (status === 401 || status === 403) {
    return failed(502, LASTING, "RunPod refuses the bridge's key.", false);
  }
  if (status === 404) {
    return failed(502, LASTING, "RunPod knows no such endpoint or job.", false);
  }
  if (status === 413) {
    return invalid(null, "request_too_large", "RunPod takes no request of this size.", 413);
  }
  if (status === 429) {
    return new ApiError(429, "rate_limit_error", "RunPod takes no more requests for now.", {
      code: "rate_limit_exceeded",
      retry: later > 0 ? Math.ceil(later) : 5,
    });
  }
  if (status === 504 || status === 524) {
    return failed(504, "timeout", "RunPod did not answer in time.", false);
  }
  if (status >= 500) {
    return failed(502, "upstream_error", `RunPod answers with ${status}.`, later || SOON_SEC);
  }
  return failed(502, LASTING, `RunPod refuses the request with ${status}.`, false);
}

const unreadable = () => failed(502, "upstream_error", "RunPod's answer cannot be read.", false);
