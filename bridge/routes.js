/** Every route of the bridge: which methods it has, whether it is open to all, what it answers. */

import { tokenIn, unauthorized } from "./auth.js";
import { Cache } from "./cache.js";
import { claimFor, NO_CLAIM } from "./claims.js";
import {
  mapValues,
  MOST_RECORDING,
  mostBytes,
  nameIn,
  parseAsk,
  recordingLength,
} from "./contract.js";
import { DirectBackend } from "./direct.js";
import { ApiError, failed, invalid } from "./errors.js";
import { headersOf } from "./facts.js";
import { getModel, listModels } from "./models.js";
import { QueueBackend } from "./queue.js";
import { bodyOf, noted } from "./speech.js";
import { asEvents, withError } from "./sse.js";
import { bytesOf } from "./streams.js";
import { TRANSCRIPTIONS, TRANSLATIONS } from "./transcription.js";
import { listVoices, VoiceMap } from "./voices.js";

/** @import { Ask } from "./contract.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Speech } from "./speech.js" */

/**
 * @typedef {object} Visit a request with what the entry knows about it
 * @property {Request} request
 * @property {string} id
 * @property {(work: Promise<unknown>) => void} waitUntil
 */

export class Bridge {
  /** @param {Settings} settings */
  constructor(settings) {
    this.settings = settings;
    this.voices = new VoiceMap(settings.bucket);
    this.cache = new Cache(settings);
    this.backend = settings.speechUrl ? new DirectBackend(settings) : new QueueBackend(settings);
  }

  /** @param {Visit} visit @returns {Promise<Response>} */
  async answer(visit) {
    const { request } = visit;
    const path = this.pathOf(request);
    const model = /^\/v1\/models\/(.+)$/.exec(path)?.[1];
    const route = model ? "/v1/models/{id}" : path;
    const methods = METHODS.get(route);
    if (request.method === "OPTIONS") return preflight(methods ?? [...READ, "POST"]);
    if (route === "/health" && READ.includes(request.method)) return this.health();
    if (this.settings.problems.length) {
      throw failed(500, "not_configured", "The bridge is not set up; its /health says why.", false);
    }
    const token = await tokenIn(request, this.settings.tokens);
    const isOpen = this.settings.publicLists && LISTS.has(path) && READ.includes(request.method);
    if (token === null && !isOpen) throw unauthorized(request);
    if (!methods) throw unknown(request.method, path);
    if (!methods.includes(request.method)) throw wrongMethod(request.method, methods);
    if (route === "/v1/audio/speech") return await this.speech(visit, token ?? "");
    if (HEARING.includes(route)) return await this.backend.hear(visit, route);
    if (request.method === "POST") throw noUploads();
    if (route === "/v1/audio/voices")
      return Response.json(await this.listed(visit, token !== null));
    const names = await this.backend.models();
    return Response.json(model ? getModel(unescaped(model), names) : listModels(names));
  }

  health() {
    const { problems, speechUrl } = this.settings;
    const state = {
      status: problems.length ? "unhealthy" : "ok",
      backend: speechUrl ? "direct" : "queue",
      ...(problems.length && { problems }),
      ...(this.voices.problem && { voices: this.voices.problem }),
    };
    return Response.json(state, { status: problems.length ? 503 : 200 });
  }

  /** The voices; those of the server, which may be uploads, are for callers with a token. */
  async listed(/** @type {Visit} */ { waitUntil }, /** @type {boolean} */ isKnown) {
    await this.voices.ready(waitUntil);
    const own = isKnown ? await this.backend.voices() : [];
    return listVoices([...new Set([...Object.keys(this.voices.names), ...own])]);
  }

  /** The path of an address, without the slashes too many that joined addresses have. */
  pathOf(/** @type {Request} */ request) {
    const path = new URL(request.url).pathname.replace(/\/{2,}/g, "/").replace(/(?<=.)\/$/, "");
    return this.settings.publicLists && LISTS.has(`/v1${path}`) ? `/v1${path}` : path;
  }

  /** @param {Visit} visit @param {string} token */
  async speech({ request, id, waitUntil }, token) {
    const { inputLimit } = this.settings;
    const { text, body } = await bodyIn(request, mostBytes(inputLimit));
    const asked = parseAsk(body, inputLimit, this.backend.anyModel);
    await this.voices.ready(waitUntil);
    const ask = this.withVoices(asked);
    const signal = request.signal;
    if (ask.extras.dry_run) {
      const plan = await this.backend.plan(ask, { id, signal, waitUntil, claim: NO_CLAIM });
      return Response.json(plan, { headers: headersOf({ ignored: ask.ignored }) });
    }
    const { verify = "off", timestamps, subtitles } = ask.extras;
    // A kept copy has the audio alone.
    const told = ask.sse && (this.backend.speaksSse || verify !== "off" || timestamps || subtitles);
    const stateOf = (/** @type {string[]} */ names) => this.backend.voiceState(names);
    const name = told ? null : await this.cache.nameOf(ask, this.voices.names, stateOf);
    let speech = name ? await this.cache.get(name) : null;
    if (!speech) {
      const claim = await claimFor(this.settings.singleFlight, request, token, text, waitUntil);
      speech = await this.backend.speak(ask, { id, signal, waitUntil, claim });
      if (name) speech = this.cache.keep(name, speech, waitUntil);
    }
    speech = noted(speech, id);
    if (ask.sse) speech = this.backend.speaksSse ? withError(speech) : asEvents(speech, ask.text);
    return audioResponse(speech, ask, waitUntil);
  }

  /** @param {Ask} ask @returns {Ask} */
  withVoices(ask) {
    const resolve = (/** @type {unknown} */ voice) => this.voices.resolve(nameIn(voice));
    const { speakers } = ask.extras;
    const extras = speakers
      ? { ...ask.extras, speakers: mapValues(/** @type {unknown[]} */ (speakers), resolve) }
      : ask.extras;
    return { ...ask, voice: resolve(ask.voice), extras };
  }
}

const READ = ["GET", "HEAD"];

const HEARING = [TRANSCRIPTIONS, TRANSLATIONS];

const LISTS = new Set(["/v1/models", "/v1/audio/models", "/v1/audio/voices"]);

/** @type {Map<string, string[]>} */
const METHODS = new Map([
  ["/health", READ],
  ["/v1/models", READ],
  ["/v1/models/{id}", READ],
  ["/v1/audio/models", READ],
  ["/v1/audio/voices", [...READ, "POST"]],
  ["/v1/audio/voice_consents", ["POST"]],
  ["/v1/audio/speech", ["POST"]],
  [TRANSCRIPTIONS, ["POST"]],
  [TRANSLATIONS, ["POST"]],
]);

/** @param {Speech} speech @param {Ask} ask @param {Visit["waitUntil"]} waitUntil */
function audioResponse(speech, ask, waitUntil) {
  const headers = new Headers(headersOf({ ...speech.facts(), ignored: ask.ignored }));
  headers.set("Content-Type", speech.contentType);
  if (ask.sse) headers.set("Cache-Control", "no-store");
  return new Response(bodyOf(speech, waitUntil), { headers });
}

/** @param {string} part of an address */
function unescaped(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** @param {string} method @param {string} path */
function unknown(method, path) {
  const shown = `${method} ${path}`.slice(0, 200);
  const known = METHODS.has(`/v1${path}`) || path.startsWith("/models/");
  const hint = known ? ". The base address has to end in /v1" : "";
  return invalid(null, "unknown_url", `Invalid URL (${shown})${hint}`, 404);
}

function noUploads() {
  const problem =
    "The bridge takes no voices. Put recordings into the worker's folder of voices, or send one " +
    "with a request, as voice_url or voice_base64.";
  return new ApiError(501, "invalid_request_error", problem, {
    code: "not_supported",
    retry: false,
  });
}

/** @param {string[]} methods */
function preflight(methods) {
  const headers = {
    Allow: [...methods, "OPTIONS"].join(", "),
    "Access-Control-Allow-Methods": [...methods, "OPTIONS"].join(", "),
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "86400",
  };
  return new Response(null, { headers });
}

/** @param {string} method @param {string[]} methods */
function wrongMethod(method, methods) {
  const problem = `Not allowed to ${method.slice(0, 20)} here. Use ${methods.join(" or ")}.`;
  const error = invalid(null, "method_not_supported", problem, 405);
  error.headers.Allow = [...methods, "OPTIONS"].join(", ");
  return error;
}

/**
 * A body's JSON and its text, which has at most `most` bytes beside a recording.
 *
 * @param {Request} request
 * @param {number} most
 * @returns {Promise<{ text: string, body: unknown }>}
 */
async function bodyIn(request, most) {
  const { text, count } = await textOf(request, most + MOST_RECORDING);
  const body = count > most + MOST_RECORDING ? null : parsed(text);
  if (count - recordingLength(body) <= most) return { text, body };
  throw invalid(null, "request_too_large", `The body has more than ${most} bytes.`, 413);
}

/**
 * The text of a body and its bytes, of which no more are read than `most` and a block.
 *
 * @param {Request} request
 * @param {number} most
 */
async function textOf(request, most) {
  const type = request.headers.get("Content-Type") ?? "application/json";
  if (!/^application\/([\w.+-]+\+)?json *(;|$)/i.test(type)) {
    const problem = "The Content-Type must be application/json.";
    throw invalid(null, "unsupported_content_type", problem, 415);
  }
  const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });
  let read = "";
  let count = Number(request.headers.get("Content-Length")) > most ? Number.POSITIVE_INFINITY : 0;
  if (count > most) return { text: "", count };
  for await (const bytes of bytesOf(request.body)) {
    count += bytes.length;
    if (count > most) return { text: "", count };
    read += decoded(text, bytes);
  }
  return { text: read + decoded(text), count };
}

/** @param {TextDecoder} text @param {Uint8Array} [bytes] none where the body has ended */
function decoded(text, bytes) {
  try {
    return text.decode(bytes, { stream: bytes !== undefined });
  } catch {
    throw noJson();
  }
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw noJson();
  }
}

function noJson() {
  return invalid(null, "invalid_json", "We could not parse the JSON body of your request.");
}
