/**
 * Every setting, read from the Worker's variables and secrets and checked.
 *
 * `problems` names what keeps the bridge from serving; its sentences hold no values, since /health
 * shows them to anyone.
 */

/**
 * @typedef {object} Settings
 * @property {string[]} tokens who may call; empty with ALLOW_ANONYMOUS
 * @property {string} runpodUrl address of a queue endpoint, without /runsync; "" if there is none
 * @property {string} speechUrl address of a server that speaks OpenAI's protocol; "" likewise
 * @property {string} runpodKey
 * @property {boolean} stream pieces by /stream while the worker speaks
 * @property {number} waitMs how long /runsync may wait before /status is polled
 * @property {number} queueTimeoutMs
 * @property {number} jobTimeoutMs
 * @property {number} idleTimeoutMs how long audio may stand still on its way
 * @property {number} inputLimit characters
 * @property {boolean} publicLists lists of models and of the map's voices for callers without a key
 * @property {string} origin for Access-Control-Allow-Origin
 * @property {R2Bucket | null} bucket
 * @property {Namespace | null} singleFlight
 * @property {boolean} cache
 * @property {boolean} cacheUnseeded
 * @property {number} cacheTtlMs
 * @property {number} cacheMaxBytes
 * @property {string[]} problems
 */

/** @import { Namespace } from "./claims.js" */

/** @typedef {Record<string, unknown>} Env */

/** @param {Env} env @returns {Settings} */
export function settingsOf(env) {
  return new Reader(env).settings();
}

class Reader {
  /** @param {Env} env */
  constructor(env) {
    this.env = env;
    /** @type {string[]} */
    this.problems = [];
  }

  /** @returns {Settings} */
  settings() {
    const tokens = this.text("AUTH_TOKEN")
      .split(/[\s,]+/)
      .filter(Boolean);
    if (!tokens.length && !this.flag("ALLOW_ANONYMOUS")) {
      this.problems.push("AUTH_TOKEN is not set (ALLOW_ANONYMOUS=true serves without)");
    }
    const runpodUrl = this.url("RUNPOD_URL").replace(/\/run(sync)?$/, "");
    const speechUrl = this.url("SPEECH_URL").replace(/\/v1(\/audio\/speech)?$/, "");
    if (!runpodUrl === !speechUrl) this.problems.push("Set one of RUNPOD_URL and SPEECH_URL");
    if (/YOUR_/.test(runpodUrl + speechUrl)) {
      this.problems.push("RUNPOD_URL or SPEECH_URL still has YOUR_ENDPOINT in it");
    }
    const runpodKey = this.text("RUNPOD_API_KEY");
    if (!runpodKey && /\brunpod\.ai\b/.test(runpodUrl + speechUrl)) {
      this.problems.push("RUNPOD_API_KEY is not set");
    }
    const bucket = /** @type {R2Bucket | undefined} */ (this.env.VIBEVOICE_BUCKET) ?? null;
    if (typeof bucket === "string") {
      this.problems.push("VIBEVOICE_BUCKET must be a binding under [[r2_buckets]], not a variable");
    }
    const cache = this.text("CACHE");
    if (cache && cache !== "r2") this.problems.push("CACHE must be r2 or empty");
    if (cache && !bucket) this.problems.push("CACHE=r2 needs the bucket VIBEVOICE_BUCKET");
    return {
      tokens,
      runpodUrl,
      speechUrl,
      runpodKey,
      stream: this.flag("RUNPOD_STREAM"),
      waitMs: this.number("RUNPOD_WAIT_SECONDS", 5, 1, 300) * 1000,
      queueTimeoutMs: this.number("QUEUE_TIMEOUT_SECONDS", 300, 1, 86_400) * 1000,
      jobTimeoutMs: this.number("JOB_TIMEOUT_SECONDS", 590, 10, 86_400) * 1000,
      idleTimeoutMs: this.number("IDLE_TIMEOUT_SECONDS", 60, 1, 3600) * 1000,
      inputLimit: this.number("OPENAI_INPUT_LIMIT", 4096, 1, 1_000_000),
      publicLists: this.flag("PUBLIC_LISTS"),
      origin: this.origin("CORS_ORIGIN"),
      bucket,
      singleFlight: /** @type {Namespace | undefined} */ (this.env.SINGLE_FLIGHT) ?? null,
      cache: cache === "r2",
      cacheUnseeded: this.flag("CACHE_UNSEEDED"),
      cacheTtlMs: this.number("CACHE_TTL_SECONDS", 604_800, 1, 31_536_000) * 1000,
      cacheMaxBytes: this.number("CACHE_MAX_BYTES", 10_000_000, 1, 50_000_000),
      problems: this.problems,
    };
  }

  /** @param {string} name */
  text(name) {
    const value = this.env[name];
    return typeof value === "string" ? value.trim() : "";
  }

  /** @param {string} name */
  flag(name) {
    const value = this.text(name).toLowerCase();
    if (!["", "true", "false"].includes(value)) this.problems.push(`${name} must be true or false`);
    return value === "true";
  }

  /** @param {string} name */
  url(name) {
    const value = this.text(name).replace(/\/+$/, "");
    if (value && !/^https?:\/\/[^\s?#]+$/.test(value)) {
      this.problems.push(`${name} must be an http or https address`);
    }
    return value;
  }

  /** Browsers compare it letter by letter, without a slash at its end. @param {string} name */
  origin(name) {
    const value = this.text(name).replace(/\/$/, "") || "*";
    if (value === "*" || /^https?:\/\/[\w.:[\]-]+$/.test(value)) return value;
    this.problems.push(`${name} must be * or one address such as https://example.com`);
    return "null"; // of no site
  }

  /** @param {string} name @param {number} fallback @param {number} least @param {number} most */
  number(name, fallback, least, most) {
    const text = this.text(name);
    const value = text ? Number(text) : fallback;
    if (value >= least && value <= most) return value;
    this.problems.push(`${name} must be a number from ${least} to ${most}`);
    return fallback;
  }
}
