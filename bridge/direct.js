/**
 * The direct backend: a server that speaks OpenAI's protocol itself, such as this worker behind a
 * load-balancing endpoint. Its bytes go straight through, server-sent events too.
 */

import { CONTENT_TYPES, EVENTS } from "./audio.js";
import { ApiError, failed } from "./errors.js";
import { factsFrom } from "./facts.js";
import { lengthOf, refuseText } from "./link.js";
import { NAMES } from "./models.js";
import { fetchWithin, NetworkError } from "./net.js";
import { checked } from "./speech.js";
import { bytesOf } from "./streams.js";
import { passOn } from "./transcription.js";

/** @import { Ask } from "./contract.js" */
/** @import { Call } from "./job.js" */
/** @import { Visit } from "./routes.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Speech } from "./speech.js" */

/** @typedef {{ id: string, type?: unknown }} Listed */

const MOST_ERROR_BYTES = 64 * 1024;
const MOST_JSON_BYTES = 4 * 2 ** 20;
const LIST_TIMEOUT_MS = 3_000;
const SOON_SEC = 2;
const COLD_START_SEC = 30;
/** RunPod's load balancer ends an answer after 330 s; what hangs then has no end of its own. */
const LOAD_BALANCER_MS = 335_000;
const LOAD_BALANCER = /^https?:\/\/[^/]*\.api\.runpod\.ai(:|\/|$)/;
/** Failures on the way to a server, which may have passed in a moment. */
const PASSING = [502, 503];

export class DirectBackend {
  speaksSse = true;
  anyModel = true;

  /** @param {Settings} settings */
  constructor(settings) {
    this.settings = settings;
    const most = LOAD_BALANCER.test(settings.speechUrl) ? LOAD_BALANCER_MS : Infinity;
    this.timeoutMs = Math.min(settings.jobTimeoutMs, most);
  }

  /** @param {Ask} ask @param {Call} call @returns {Promise<Speech>} */
  async speak(ask, call) {
    const response = await this.post(ask, call);
    if (!response.ok || !response.body) throw await refusal(response);
    if (!ask.sse) await refuseText(response);
    const source = bytesOf(response.body, this.settings.idleTimeoutMs);
    const chunks = await checked(source, ask.sse ? "sse" : ask.format);
    const facts = factsFrom(response.headers);
    const contentType = ask.sse ? EVENTS : CONTENT_TYPES[ask.format];
    return { chunks, length: lengthOf(response), contentType, facts: () => facts };
  }

  /** What was said in a recording. @param {Visit} visit @param {string} path */
  async hear(visit, path) {
    return await passOn(this.settings, visit, path, refusal);
  }

  /** How a text would be read. @param {Ask} ask @param {Call} call */
  async plan(ask, call) {
    const response = await this.post(ask, call);
    if (!response.ok) throw await refusal(response);
    try {
      return JSON.parse(await start(response, MOST_JSON_BYTES));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw failed(502, "upstream_error", "The server's answer is no plan of a text.", false);
    }
  }

  /** @param {Ask} ask @param {Call} call */
  async post(ask, call) {
    const body = {
      ...ask.extras,
      ...(ask.model && { model: ask.model }),
      input: ask.text,
      voice: ask.voice,
      response_format: ask.format,
      speed: ask.speed,
      ...(ask.sse && { stream_format: "sse" }),
    };
    try {
      return await fetchWithin(
        `${this.settings.speechUrl}/v1/audio/speech`,
        {
          method: "POST",
          headers: {
            ...this.authorization(),
            "Content-Type": "application/json",
            "X-Request-ID": call.id,
          },
          body: JSON.stringify(body),
          signal: call.signal,
        },
        this.timeoutMs,
      );
    } catch (error) {
      if (!(error instanceof NetworkError)) throw error;
      if (error.late) throw failed(504, "timeout", "The server did not answer in time.", false);
      throw failed(502, "upstream_error", "The server cannot be reached.", SOON_SEC);
    }
  }

  /** @returns {Record<string, string>} */
  authorization() {
    return this.settings.runpodKey ? { Authorization: `Bearer ${this.settings.runpodKey}` } : {};
  }

  /** The server's own voices; none where it does not tell. */
  async voices() {
    return ids(await this.listed("/v1/audio/voices", "voices")) ?? [];
  }

  /**
   * What the sound of these voices depends on at the server: each upload that is named, and all
   * that is no upload, since any of it may stand in for a name. Null where the server does not tell.
   *
   * @param {string[]} names
   * @returns {Promise<unknown>}
   */
  async voiceState(names) {
    const listed = await this.listed("/v1/audio/voices", "voices");
    const named = new Set(names.map((name) => name.trim().toLowerCase()));
    return listed?.filter(
      ({ id, type }) => type !== "audio_sample" || named.has(String(id).toLowerCase()),
    );
  }

  /** The server's models; ours where it does not tell. */
  async models() {
    return ids(await this.listed("/v1/models", "data")) ?? NAMES;
  }

  /**
   * A list that the server has; null where it does not tell.
   *
   * @param {string} path
   * @param {string} name of the list
   * @returns {Promise<Listed[] | null>}
   */
  async listed(path, name) {
    const signal = AbortSignal.timeout(LIST_TIMEOUT_MS);
    try {
      const init = { headers: this.authorization(), signal };
      const response = await fetchWithin(this.settings.speechUrl + path, init, LIST_TIMEOUT_MS);
      const listed = JSON.parse(await start(response, MOST_JSON_BYTES));
      return listed[name].map((/** @type {Listed} */ each) => ({ ...each, id: String(each.id) }));
    } catch (error) {
      console.warn(`the server's ${name} are not known: ${error instanceof Error && error.name}`);
      return null;
    }
  }
}

/** @param {Listed[] | null} listed */
function ids(listed) {
  return listed?.map(({ id }) => id);
}

/**
 * A server's own error, if it speaks OpenAI's language, else what its status means. 401 and 403
 * are about the bridge's key, not the caller's.
 *
 * @param {Response} response
 * @returns {Promise<ApiError>}
 */
async function refusal(response) {
  const { status, headers } = response;
  const text = await start(response).catch(() => "");
  if (status === 401 || status === 403) {
    return failed(502, "upstream_refused", "The server refuses the bridge's key.", false);
  }
  if (/no workers? available/i.test(text)) {
    const problem = "No worker is ready yet; one may be starting.";
    return failed(503, "worker_unavailable", problem, COLD_START_SEC);
  }
  const own = envelope(text);
  if (own && status >= 400 && status < 600) {
    const error = new ApiError(status, own.type, own.message, own);
    for (const name of ["Retry-After", "x-should-retry"]) {
      const value = headers.get(name);
      if (value) error.headers[name] = value;
    }
    const silent = !Object.keys(error.headers).length;
    if (silent && status >= 500 && !PASSING.includes(status)) {
      error.headers["x-should-retry"] = "false";
    }
    return error;
  }
  if (status === 429) {
    const retry = Number(headers.get("Retry-After")) || 5;
    const problem = "The server takes no more requests for now.";
    return new ApiError(429, "rate_limit_error", problem, { code: "rate_limit_exceeded", retry });
  }
  if (status === 504 || status === 524) {
    const most = status === 524 ? ": a load balancer of RunPod's gives it 330 s" : "";
    return failed(504, "timeout", `The speech took longer than it may${most}.`, false);
  }
  const retry = PASSING.includes(status) ? SOON_SEC : false;
  return failed(502, "upstream_error", `The server answers with ${status}.`, retry);
}

/** @param {string} text */
function envelope(text) {
  try {
    const { error } = JSON.parse(text);
    const { message, type, param = null, code = null } = error;
    if (typeof message === "string" && typeof type === "string")
      return { message, type, param, code };
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
  }
  return null;
}

/** The first bytes of an answer, as text. @param {Response} response @param {number} [most] */
async function start(response, most = MOST_ERROR_BYTES) {
  const text = new TextDecoder();
  let read = "";
  for await (const bytes of bytesOf(response.body)) {
    read += text.decode(bytes, { stream: true });
    if (read.length > most) break;
  }
  return read;
}
