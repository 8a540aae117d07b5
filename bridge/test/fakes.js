/** RunPod, a store and a caller, for tests in workerd. */

import {
  createExecutionContext,
  env,
  runInDurableObject,
  waitOnExecutionContext,
} from "cloudflare:test";
import { vi } from "vitest";
import worker from "../worker.js";

export const TOKEN = "sk-test";
export const ENDPOINT = "https://runpod.test/v2/loopback";
export const SPEECH = { model: "tts-1", input: "Hello there.", voice: "alloy" };

const HEADS = {
  mp3: [0xff, 0xf3, 0xc4, 0xc4],
  opus: [...new TextEncoder().encode("OggS")],
  aac: [0xff, 0xf1, 0x58, 0x40],
  flac: [...new TextEncoder().encode("fLaC")],
  wav: [...new TextEncoder().encode("RIFF")],
  pcm: [0, 0, 0, 0],
};

/** Bytes that begin like a file of that format, and of which no two thousand are alike. */
export function audio(format = "mp3", size = 10_000) {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at++) bytes[at] = at * 31 + (at >> 8);
  bytes.set(HEADS[format]);
  return bytes;
}

/** What the worker answers, as RunPod wraps it. */
export function completed(bytes = audio(), output = {}, state = {}) {
  return {
    id: "job-1",
    status: "COMPLETED",
    delayTime: 12,
    executionTime: 345,
    output: {
      status: "success",
      format: "mp3",
      ...(bytes && { audio_base64: bytes.toBase64() }),
      engine: "espeak",
      voice: "Alice",
      seed: 7,
      duration_sec: 2,
      warnings: [],
      ...output,
    },
    ...state,
  };
}

/**
 * Puts a RunPod in the network's place. `routes` maps "runsync", "status" ... or a whole address to
 * an answer: an object is JSON, a number a status, a list one answer after the other (the last for
 * ever), a function is called with `{ path, body, headers, signal }`.
 *
 * @returns calls, in order, each with its `kind`
 */
export function network(routes) {
  const calls = [];
  vi.stubGlobal("fetch", async (url, init = {}) => {
    const path = String(url).startsWith(ENDPOINT) ? String(url).slice(ENDPOINT.length + 1) : "";
    const kind = path ? path.split(/[/?]/)[0] : String(url);
    const body = init.body ? JSON.parse(init.body) : null;
    const call = { kind, path, body, headers: new Headers(init.headers), signal: init.signal };
    calls.push(call);
    let answer = routes[kind];
    if (Array.isArray(answer)) answer = answer.length > 1 ? answer.shift() : answer[0];
    if (typeof answer === "function") answer = await answer(call);
    if (answer instanceof Response) return answer;
    if (typeof answer === "number") return new Response("not JSON", { status: answer });
    if (answer === undefined) throw new TypeError(`nobody at ${url}`);
    return Response.json(answer);
  });
  return calls;
}

/** A promise that only an abort ends, as a fetch that gets no answer. */
export function never({ signal }) {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}

/** A visit to the bridge. `settled` waits for what outlives the answer. */
export function visit(path, { settings = {}, auth = `Bearer ${TOKEN}`, headers, ...init } = {}) {
  const ctx = createExecutionContext();
  const request = new Request(`https://bridge.test${path}`, {
    ...init,
    headers: { ...(auth && { Authorization: auth }), ...headers },
  });
  const bridge = { AUTH_TOKEN: TOKEN, RUNPOD_URL: ENDPOINT, RUNPOD_API_KEY: "rpa_1", ...settings };
  const answer = worker.fetch(request, bridge, ctx);
  return { answer, settled: () => waitOnExecutionContext(ctx) };
}

/** The answer to a request for speech, once all that it began has ended. */
export async function speak(speech = {}, options = {}) {
  const { answer, settled } = visit("/v1/audio/speech", {
    method: "POST",
    body: JSON.stringify({ ...SPEECH, ...speech }),
    ...options,
    headers: { "Content-Type": "application/json", ...options.headers },
  });
  const response = await answer;
  const body = await response.arrayBuffer().catch((error) => error);
  await settled();
  const { status, headers } = response;
  if (body instanceof Error) return { status, headers, broken: true };
  const bytes = new Uint8Array(body);
  const json = /json/.test(headers.get("Content-Type"))
    ? JSON.parse(new TextDecoder().decode(bytes))
    : null;
  return {
    status,
    headers,
    bytes,
    error: json?.error,
    text: () => new TextDecoder().decode(bytes),
  };
}

/** Waits for something true. */
export function until(happened) {
  return vi.waitUntil(happened, { timeout: 30_000 });
}

/** The data of server-sent events. */
export function eventsOf(text) {
  const lines = text.split("\r\n\r\n");
  if (lines.pop() !== "") throw new Error("the last event is not whole");
  return lines.map((line) => {
    if (!line.startsWith("data: ")) throw new Error(`no event: ${line.slice(0, 50)}`);
    return line === "data: [DONE]" ? "[DONE]" : JSON.parse(line.slice("data: ".length));
  });
}

/** A bucket of the test's own. */
export async function emptyBucket() {
  const bucket = env.VIBEVOICE_BUCKET;
  const { objects } = await bucket.list();
  await Promise.all(objects.map(({ key }) => bucket.delete(key)));
  return bucket;
}

/** Durable Objects of the test's own. `entries()` is what they know, by their ids. */
export function freshFlights() {
  const { SINGLE_FLIGHT: all } = env;
  const own = crypto.randomUUID();
  const ids = new Map();
  const kept = async (id) => runInDurableObject(all.get(id), (_, ctx) => ctx.storage.get("entry"));
  return {
    idFromName(name) {
      const id = all.idFromName(own + name);
      ids.set(id.toString(), id);
      return id;
    },
    get: (id) => all.get(id),
    async entries() {
      const pairs = [...ids].map(async ([name, id]) => [name, await kept(id)]);
      return Object.fromEntries((await Promise.all(pairs)).filter(([, entry]) => entry));
    },
    places: () => [...ids.values()].map((id) => all.get(id)),
  };
}
