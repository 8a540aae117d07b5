/**
 * OpenAI's text-to-speech API in front of the VibeVoice worker, as a Cloudflare Worker.
 *
 * The entry: gives every request an id, answers it, and puts on every answer what all of them have.
 * A log line holds a request's id, method, route, status and time, and never a text or a token;
 * what breaks an answer off later has a line of its own.
 */

import { asApiError } from "./errors.js";
import { EXPOSED } from "./facts.js";
import { Bridge } from "./routes.js";
import { settingsOf } from "./settings.js";

/** @import { Env } from "./settings.js" */

export { SingleFlight } from "./claims.js";

/** @type {WeakMap<Env, Bridge>} */
const bridges = new WeakMap();

export default {
  /**
   * @param {Request} request
   * @param {Env} env
   * @param {ExecutionContext} ctx
   * @returns {Promise<Response>}
   */
  async fetch(request, env, ctx) {
    const start = Date.now();
    const id = requestId(request);
    const bridge = bridges.get(env) ?? new Bridge(settingsOf(env));
    bridges.set(env, bridge);
    let answer;
    try {
      answer = await bridge.answer({ request, id, waitUntil: (work) => ctx.waitUntil(work) });
    } catch (error) {
      answer = asApiError(error).response();
    }
    const took = Date.now() - start;
    const { method } = request;
    const path = new URL(request.url).pathname.slice(0, 100);
    const job = answer.headers.get("X-Speech-Job") ?? undefined;
    console.log(
      JSON.stringify({ request: id, method, path, status: answer.status, ms: took, job }),
    );
    return dressed(answer, method, id, took, bridge.settings.origin);
  },
};

/**
 * @param {Response} answer
 * @param {string} method
 * @param {string} id
 * @param {number} took
 * @param {string} origin
 */
function dressed(answer, method, id, took, origin) {
  const headers = new Headers(answer.headers);
  headers.set("X-Request-ID", id);
  headers.set("X-Speech-Total-Ms", String(took));
  headers.set("openai-processing-ms", String(took));
  headers.set("openai-version", "2020-10-01");
  headers.set("X-Content-Type-Options", "nosniff");
  headers.set("Access-Control-Allow-Origin", origin);
  if (origin !== "*") headers.append("Vary", "Origin");
  // An SDK in a browser retries what it is not shown to leave alone.
  const told = ["X-Request-ID", "Retry-After", "x-should-retry", "openai-processing-ms"];
  const exposed = [...told, ...EXPOSED];
  headers.set("Access-Control-Expose-Headers", exposed.join(", "));
  const body = method === "HEAD" ? null : answer.body;
  return new Response(body, { status: answer.status, headers });
}

/** The caller's own id, where it is one that logs can take. @param {Request} request */
function requestId(request) {
  const given = request.headers.get("X-Request-ID") ?? "";
  if (/^[!-~]{1,128}$/.test(given)) return given;
  return `req_${crypto.randomUUID().replaceAll("-", "")}`;
}
