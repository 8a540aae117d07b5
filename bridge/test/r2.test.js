/**
 * What is kept: jobs to join in Durable Objects, the cache and the voice map in R2. Both are the real
 * ones of workerd.
 */

import { runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  audio,
  completed,
  emptyBucket,
  eventsOf,
  freshFlights,
  network,
  SPEECH,
  speak,
  TOKEN,
  until,
  visit,
} from "./fakes.js";

const QUEUED = { id: "job-1", status: "IN_QUEUE" };
const WORKING = { id: "job-1", status: "IN_PROGRESS" };
let bucket;
let flights;
let settings;

beforeEach(async () => {
  bucket = await emptyBucket();
  flights = freshFlights();
  settings = { VIBEVOICE_BUCKET: bucket, SINGLE_FLIGHT: flights };
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

const starts = (calls) => calls.filter(({ kind }) => kind === "runsync").length;

/** A bucket each of whose calls fails. */
const broken = new Proxy(
  {},
  {
    get: () => async () => {
      throw new Error("R2 is down");
    },
  },
);

/** The Durable Objects, each of whose calls goes through `then(method, go)`. */
function flightsOf(then) {
  const through = (place) =>
    new Proxy(place, {
      get:
        (_, method) =>
        (...given) =>
          then(method, () => place[method](...given)),
    });
  return {
    idFromName: (name) => flights.idFromName(name),
    get: (id) => through(flights.get(id)),
  };
}

function leaving(headers = {}) {
  const caller = new AbortController();
  const { answer, settled } = visit("/v1/audio/speech", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(SPEECH),
    signal: caller.signal,
    settings,
  });
  answer.then((response) => response.body?.cancel()).catch(() => {});
  return { answer, leave: () => caller.abort(), settled };
}

/** The job that is told to who comes again. */
async function known() {
  return Object.values(await flights.entries())[0]?.job;
}

describe("the same request again", () => {
  const key = { headers: { "Idempotency-Key": "k1" } };
  const retry = { headers: { "x-stainless-retry-count": "1" } };

  test("with its key joins the job, at once and later", async () => {
    let working = true;
    const calls = network({ runsync: QUEUED, status: () => (working ? WORKING : completed()) });
    const both = [speak({}, { settings, ...key }), speak({}, { settings, ...key })];
    setTimeout(() => {
      working = false;
    }, 1000);
    const answers = await Promise.all(both);
    answers.push(await speak({}, { settings, ...key }));
    for (const { bytes } of answers) expect(bytes).toEqual(audio());
    expect(starts(calls)).toBe(1);
  });

  test("a hundred times at once starts one job", async () => {
    const calls = network({ runsync: QUEUED, status: completed() });
    const all = Array.from({ length: 100 }, () => speak({}, { settings, ...key }));
    for (const { bytes } of await Promise.all(all)) expect(bytes).toEqual(audio());
    expect(starts(calls)).toBe(1);
  });

  test.each([
    ["another text", { input: "Something else." }, {}],
    ["another key", {}, { headers: { "Idempotency-Key": "k2" } }],
    ["no key", {}, { headers: {} }],
    ["another token", {}, { auth: "Bearer second" }],
  ])("with %s is another request", async (_, speech, options) => {
    const calls = network({ runsync: completed(), status: completed() });
    const two = { ...settings, AUTH_TOKEN: `${TOKEN},second` };
    await speak({}, { settings: two, ...key });
    expect((await speak(speech, { ...key, ...options, settings: two })).status).toBe(200);
    expect(starts(calls)).toBe(2);
  });

  test("by an SDK's retry joins the job that the first attempt started", async () => {
    const calls = network({ runsync: completed(), status: completed() });
    await speak({}, { settings });
    await speak({}, { settings, ...retry });
    expect(calls.map(({ kind }) => kind)).toEqual(["runsync", "status"]);
  });

  test("by an SDK's retry after a minute starts anew", async () => {
    const calls = network({ runsync: completed(), status: completed() });
    await speak({}, { settings });
    vi.setSystemTime(Date.now() + 61_000);
    await speak({}, { settings, ...retry });
    expect(starts(calls)).toBe(2);
  });

  test("said twice without a key or a retry is two requests", async () => {
    const calls = network({ runsync: completed() });
    await speak({}, { settings });
    await speak({}, { settings });
    expect(starts(calls)).toBe(2);
  });

  test("after a failed job fails the same, and costs nothing", async () => {
    const failed = { id: "job-1", status: "FAILED", error: "the engine is gone" };
    const calls = network({ runsync: failed, status: failed });
    await speak({}, { settings });
    expect((await speak({}, { settings, ...retry })).status).toBe(500);
    expect(starts(calls)).toBe(1);
  });

  test("after a failure that the next worker will not have starts anew", async () => {
    const error = "[worker_unavailable] this worker has to be replaced";
    const calls = network({ runsync: [{ id: "job-1", status: "FAILED", error }, completed()] });
    expect((await speak({}, { settings, ...key })).status).toBe(503);
    expect((await speak({}, { settings, ...retry, ...key })).status).toBe(200);
    expect(starts(calls)).toBe(2);
  });

  test("after a start that failed starts anew", async () => {
    const calls = network({ runsync: [429, completed()] });
    expect((await speak({}, { settings, ...key })).status).toBe(429);
    expect((await speak({}, { settings, ...key })).status).toBe(200);
    expect(starts(calls)).toBe(2);
  });

  test("after RunPod has forgotten the job starts anew", async () => {
    const calls = network({ runsync: completed(), status: 404 });
    await speak({}, { settings, ...key });
    expect((await speak({}, { settings, ...key })).status).toBe(200);
    expect(starts(calls)).toBe(2);
  });

  /** A first job that RunPod has forgotten, and others that are at work. */
  const forgotten = () => {
    let count = 0;
    let working = true;
    const calls = network({
      runsync: () => (++count === 1 ? completed() : { id: `job-${count}`, status: "IN_QUEUE" }),
      status: ({ path }) => {
        if (path === "status/job-1") return 404;
        const id = path.slice("status/".length);
        return working ? { id, status: "IN_PROGRESS" } : completed(audio(), {}, { id });
      },
      cancel: {},
    });
    return { calls, finish: () => (working = false) };
  };

  test("by two after RunPod has forgotten the job starts one anew", async () => {
    const { calls, finish } = forgotten();
    await speak({}, { settings, ...key });
    setTimeout(finish, 1500);
    const both = [speak({}, { settings, ...key }), speak({}, { settings, ...key })];
    for (const answer of await Promise.all(both)) {
      expect(answer.headers.get("X-Speech-Job")).toBe("job-2");
    }
    expect(starts(calls)).toBe(2);
  });

  test("that started anew is cancelled, too, when its caller leaves", async () => {
    const { calls } = forgotten();
    await speak({}, { settings, ...key });
    const { leave, settled } = leaving(key.headers);
    await until(() => calls.some(({ path }) => path === "status/job-2"));
    leave();
    await settled();
    expect(calls.filter(({ kind }) => kind === "cancel").map(({ path }) => path)).toEqual([
      "cancel/job-2",
    ]);
  });

  test("has its own job to leave, whatever becomes of an equal one", async () => {
    let count = 0;
    let working = true;
    const calls = network({
      runsync: () => ({ id: `job-${++count}`, status: "IN_QUEUE" }),
      status: ({ path }) => {
        const id = path.slice("status/".length);
        return working ? { id, status: "IN_PROGRESS" } : completed(audio(), {}, { id });
      },
      cancel: {},
    });
    const first = leaving();
    await until(() => calls.length > 1);
    const second = speak({}, { settings });
    await until(async () => (await known()) === "job-2");
    first.leave();
    await scheduler.wait(200);
    const third = speak({}, { settings, ...retry });
    await first.settled();
    working = false;
    for (const answer of await Promise.all([second, third])) {
      expect(answer.headers.get("X-Speech-Job")).toBe("job-2");
    }
    expect(calls.filter(({ kind }) => kind === "cancel").map(({ path }) => path)).toEqual([
      "cancel/job-1",
    ]);
  });

  test("keeps the job that the first caller has left", async () => {
    let working = true;
    const calls = network({
      runsync: QUEUED,
      status: () => (working ? WORKING : completed()),
      cancel: {},
    });
    const { promise: grace, resolve: endGrace } = Promise.withResolvers();
    const wait = scheduler.wait.bind(scheduler);
    vi.spyOn(scheduler, "wait").mockImplementation((ms) => (ms === 2000 ? grace : wait(ms)));
    const first = leaving();
    await until(() => calls.length > 1);
    first.leave();
    await until(() => scheduler.wait.mock.calls.some(([ms]) => ms === 2000));
    const left = calls.length;
    const second = speak({}, { settings, ...retry });
    await until(() => calls.length > left);
    endGrace();
    await first.settled();
    expect(calls.some(({ kind }) => kind === "cancel")).toBe(false);
    working = false;
    expect((await second).bytes).toEqual(audio());
    expect(starts(calls)).toBe(1);
  });

  test("by one who left before it was looked for starts nothing", async () => {
    const calls = network({ runsync: QUEUED, status: WORKING, cancel: {} });
    let look;
    const looked = new Promise((resolve) => (look = resolve));
    let leave;
    settings.SINGLE_FLIGHT = flightsOf(async (method, go) => {
      if (method === "open") {
        leave();
        await looked;
      }
      return go();
    });
    const left = new Promise((resolve) => (leave = resolve));
    const first = leaving(key.headers);
    await left;
    first.leave();
    look();
    await first.answer;
    await first.settled();
    expect(calls).toEqual([]);
  });

  test("does not come: the job that was left is cancelled", async () => {
    const calls = network({ runsync: QUEUED, status: WORKING, cancel: {} });
    const first = leaving();
    await until(() => calls.length > 1);
    first.leave();
    await first.settled();
    expect(calls.filter(({ kind }) => kind === "cancel")).toHaveLength(1);
    expect(await flights.entries()).toEqual({});
  });

  const down = flightsOf(async () => {
    throw new Error("it is overloaded");
  });

  test.each([
    ["without Durable Objects", undefined],
    ["while they fail", down],
  ])("is served %s, as a request of its own", async (_, given) => {
    const calls = network({ runsync: completed() });
    const options = { settings: { ...settings, SINGLE_FLIGHT: given }, ...key };
    await speak({}, options);
    expect((await speak({}, options)).bytes).toEqual(audio());
    expect(starts(calls)).toBe(2);
  });

  test("a hundred times, each call late by its own time, starts one job", async () => {
    const calls = network({ runsync: QUEUED, status: completed() });
    const slow = flightsOf(async (_, go) => {
      await scheduler.wait(Math.random() * 300);
      return go();
    });
    const options = { settings: { ...settings, SINGLE_FLIGHT: slow }, ...key };
    const all = Array.from({ length: 100 }, () => speak({}, options));
    for (const { bytes } of await Promise.all(all)) expect(bytes).toEqual(audio());
    expect(starts(calls)).toBe(1);
    expect(Object.values(await flights.entries())[0].waiters).toBe(100);
  });

  test("is forgotten after half an hour", async () => {
    network({ runsync: completed() });
    await speak({}, { settings, ...key });
    const [place] = flights.places();
    const at = await runInDurableObject(place, (_, { storage }) => storage.getAlarm());
    expect(at - Date.now()).toBeGreaterThan(29 * 60_000);
    expect(await runDurableObjectAlarm(place)).toBe(true);
    expect(await flights.entries()).toEqual({});
  });

  test("leaves neither its text nor its token", async () => {
    network({ runsync: completed() });
    await speak({}, { settings, ...key });
    const kept = JSON.stringify(await flights.entries());
    expect(kept).toContain("job-1");
    for (const secret of [SPEECH.input, TOKEN, "k1"]) expect(kept).not.toContain(secret);
  });
});

describe("the cache", () => {
  const on = (more = {}) => ({ settings: { ...settings, CACHE: "r2", ...more } });
  const hit = (answer) => answer.headers.get("X-Speech-Cache");

  test("answers an identical request, with the same facts", async () => {
    const warnings = ["voice: “Bob” is unknown", "text: an emoji was left out"];
    const calls = network({ runsync: completed(audio(), { warnings }) });
    const first = await speak({ seed: 7 }, on());
    const second = await speak({ seed: 7 }, on());
    expect([hit(first), hit(second)]).toEqual(["miss", "hit"]);
    expect(second.bytes).toEqual(first.bytes);
    for (const name of [
      "X-Speech-Warnings",
      "Content-Type",
      "X-Speech-Seed",
      "X-Speech-Engine",
      "X-Speech-Seconds",
    ]) {
      expect(first.headers.get(name)).not.toBeNull();
      expect(second.headers.get(name)).toBe(first.headers.get(name));
    }
    expect(starts(calls)).toBe(1);
  });

  test("keeps an answer with however many warnings", async () => {
    const warnings = ["“".repeat(5000)];
    network({ runsync: completed(audio(), { warnings }) });
    const answers = [await speak({ seed: 7 }, on()), await speak({ seed: 7 }, on())];
    expect(answers.map(hit)).toEqual(["miss", "hit"]);
    const said = answers.map(({ headers }) => headers.get("X-Speech-Warnings"));
    expect(said.map(({ length }) => length)).toEqual([1000, 500]);
  });

  test("keeps no body whose end nobody told", async () => {
    const link = "https://store.test/a.mp3";
    const body = () => new Response(new Blob([audio()]).stream());
    const job = completed(null, { audio_url: link });
    const calls = network({ runsync: job, [link]: body });
    const answers = [await speak({ seed: 7 }, on()), await speak({ seed: 7 }, on())];
    expect(answers.map(hit)).toEqual(["miss", "miss"]);
    expect(starts(calls)).toBe(2);
  });

  test.each([
    ["by its type", "text/html", "<p>No."],
    ["by its type", "application/xml", "<Error/>"],
    ["by its first bytes", "application/octet-stream", "\n<!DOCTYPE html>"],
    ["by its first bytes", "application/octet-stream", '{ "error": 1 }'],
  ])("keeps and serves no page as pcm: one %s", async (_, type, page) => {
    const link = "https://store.test/a.pcm";
    const headers = { "Content-Type": type, "Content-Length": String(page.length) };
    const job = completed(null, { audio_url: link, format: "pcm" });
    network({ runsync: job, [link]: () => new Response(page, { headers }) });
    const answer = await speak({ seed: 7, response_format: "pcm" }, on());
    expect([answer.status, answer.error.code]).toEqual([502, "upstream_error"]);
    expect((await bucket.list({ prefix: "cache/" })).objects).toEqual([]);
  });

  test("serves events from what was kept as bytes", async () => {
    const calls = network({ runsync: completed() });
    await speak({ seed: 7 }, on());
    const events = eventsOf((await speak({ seed: 7, stream_format: "sse" }, on())).text());
    expect(events.at(-2).usage.output_tokens).toBe(50);
    expect(starts(calls)).toBe(1);
  });

  test("keeps nothing for events that tell more than the audio", async () => {
    const calls = network({ runsync: completed() });
    const asked = { seed: 7, stream_format: "sse", timestamps: "word" };
    await speak(asked, on());
    await speak(asked, on());
    expect(starts(calls)).toBe(2);
  });

  test.each([
    ["text", { input: "Other." }],
    ["voice", { voice: "echo" }],
    ["format", { response_format: "wav" }],
    ["speed", { speed: 2 }],
    ["seed", { seed: 8 }],
    ["a field of the worker's", { cfg_scale: 3 }],
  ])("keeps apart what differs by %s", async (_, change) => {
    const answer = ({ body }) =>
      completed(audio(body.input.response_format), { format: body.input.response_format });
    const calls = network({ runsync: answer });
    await speak({ seed: 7 }, on());
    await speak({ seed: 7, ...change }, on());
    expect(starts(calls)).toBe(2);
  });

  test("keeps apart what differs by the voice map", async () => {
    const calls = network({ runsync: completed() });
    await speak({ seed: 7 }, on());
    await bucket.put("voices.json", '{"alloy": "Bob"}');
    await speak({ seed: 7 }, on());
    expect(starts(calls)).toBe(2);
  });

  test("does not keep apart what sounds the same", async () => {
    const calls = network({ runsync: completed() });
    await speak({ seed: 7, steps: 5, model: "tts-1" }, on());
    await speak(
      { model: "tts-1-hd", steps: 5, seed: 7, instructions: "Slowly.", nonsense: 2 },
      on(),
    );
    expect(starts(calls)).toBe(1);
  });

  test("passes by without a seed, unless asked", async () => {
    const calls = network({ runsync: completed() });
    for (const _ of [1, 2]) expect(hit(await speak({}, on()))).toBeNull();
    expect(starts(calls)).toBe(2);
    const asked = on({ CACHE_UNSEEDED: "true" });
    const seen = [await speak({}, asked), await speak({}, asked)];
    expect(seen.map(hit)).toEqual(["miss", "hit"]);
  });

  test("is off where it is not switched on", async () => {
    const calls = network({ runsync: completed() });
    for (const _ of [1, 2]) await speak({ seed: 7 }, { settings });
    expect(starts(calls)).toBe(2);
  });

  test("gives nothing that is too old", async () => {
    const calls = network({ runsync: completed() });
    await speak({ seed: 7 }, on());
    vi.setSystemTime(Date.now() + 2000);
    await speak({ seed: 7 }, on({ CACHE_TTL_SECONDS: "1" }));
    expect(starts(calls)).toBe(2);
  });

  test("keeps nothing that is too large", async () => {
    const calls = network({ runsync: completed() });
    for (const _ of [1, 2]) await speak({ seed: 7 }, on({ CACHE_MAX_BYTES: "9999" }));
    expect(starts(calls)).toBe(2);
  });

  test("keeps nothing that broke off", async () => {
    const body = new ReadableStream({
      start: (controller) => controller.enqueue(audio()),
      pull: (controller) => controller.error(new Error("reset")),
    });
    const audio_url = "https://store.test/a.mp3";
    network({ runsync: completed(null, { audio_url }), [audio_url]: () => new Response(body) });
    expect((await speak({ seed: 7 }, on())).broken).toBe(true);
    const { objects } = await bucket.list({ prefix: "cache/" });
    expect(objects).toEqual([]);
  });

  test("is no matter where R2 fails", async () => {
    network({ runsync: completed() });
    const down = { settings: { VIBEVOICE_BUCKET: broken, CACHE: "r2" } };
    expect((await speak({ seed: 7 }, down)).bytes).toEqual(audio());
  });
});

describe("the voice map", () => {
  async function ids(environment) {
    const { answer, settled } = visit("/v1/audio/voices", { settings: environment });
    const { voices } = await (await answer).json();
    await settled();
    return voices.map(({ id }) => id);
  }

  test("in R2 counts, and names it does not hold are the worker's", async () => {
    await bucket.put("voices.json", '{"narrator": "en-Frank_man"}');
    const calls = network({ runsync: completed() });
    for (const voice of ["narrator", "Narrator", "Alice"]) await speak({ voice }, { settings });
    const asked = calls.map(({ body }) => body.input.voice);
    expect(asked).toEqual(["en-Frank_man", "en-Frank_man", "Alice"]);
    expect(await ids(settings)).toEqual(["narrator"]);
  });

  test.each(["{", "[]", "{}", '{"a": 1}', '{"a": " "}', `{"${"a".repeat(201)}": "b"}`])(
    "that cannot be used is not: %s",
    async (text) => {
      await bucket.put("voices.json", text);
      expect(await ids(settings)).toHaveLength(13);
    },
  );

  test("is read once a minute, in the background, and its last good copy stays", async () => {
    // One environment, as an isolate has it, so that one map is seen over time.
    const { default: worker } = await import("../worker.js");
    const environment = { AUTH_TOKEN: TOKEN, RUNPOD_URL: "https://runpod.test/v2/x", ...settings };
    const seen = async (path = "/v1/audio/voices") => {
      const waiting = [];
      const request = new Request(`https://b${path}`, {
        headers: { Authorization: `Bearer ${TOKEN}` },
      });
      const answer = await worker.fetch(request, environment, {
        waitUntil: (work) => waiting.push(work),
      });
      await Promise.all(waiting);
      return answer.json();
    };
    const names = async () => (await seen()).voices.map(({ id }) => id).join();
    await bucket.put("voices.json", '{"one": "A"}');
    expect(await names()).toBe("one");
    await bucket.put("voices.json", '{"two": "A"}');
    expect(await names()).toBe("one");
    vi.setSystemTime(Date.now() + 61_000);
    expect(await names()).toBe("one"); // stale, while it is read again
    expect(await names()).toBe("two");
    await bucket.put("voices.json", "broken");
    vi.setSystemTime(Date.now() + 61_000);
    await names();
    expect(await names()).toBe("two");
    expect((await seen("/health")).voices).toBe("is no JSON");
  });

  test("is the one beside the code while R2 fails", async () => {
    expect(await ids({ VIBEVOICE_BUCKET: broken })).toHaveLength(13);
  });
});
