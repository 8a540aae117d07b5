/** The entry: who may call, what it takes to serve, what the logs hold. */

import { afterEach, describe, expect, test, vi } from "vitest";
import { CONTENT_TYPES, FORMATS } from "../audio.js";
import schema from "../request.schema.json";
import { audio, completed, network, SPEECH, speak, TOKEN, visit } from "./fakes.js";

afterEach(() => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

async function get(path, options) {
  const response = await visit(path, options).answer;
  return [response.status, await response.json()];
}

describe("the key", () => {
  test.each(["first", "second"])("may be any of several: %s", async (token) => {
    const options = { settings: { AUTH_TOKEN: "first, second" }, auth: `Bearer ${token}` };
    expect((await get("/v1/models", options))[0]).toBe(200);
  });

  test.each([
    "Bearer ",
    "Bearer first,second",
    "Bearer firs",
    "Bearer firstX",
    "first",
    "Bearer a b",
  ])("is none: %s", async (auth) => {
    const options = { settings: { AUTH_TOKEN: "first, second" }, auth };
    expect((await get("/v1/models", options))[0]).toBe(401);
  });

  test.each([
    { Authorization: "Token first" },
    { "api-key": "first" },
    { "xi-api-key": " first " },
  ])("may come as other services take it: %o", async (headers) => {
    const options = { settings: { AUTH_TOKEN: "first" }, auth: null, headers };
    expect((await get("/v1/models", options))[0]).toBe(200);
  });

  test("is the bearer's where two come along", async () => {
    const options = { settings: { AUTH_TOKEN: "first" }, auth: "Bearer other" };
    expect((await get("/v1/models", { ...options, headers: { "api-key": "first" } }))[0]).toBe(401);
  });

  test("is compared in full with each of the tokens", async () => {
    const compared = vi.spyOn(crypto.subtle, "timingSafeEqual");
    await get("/v1/models", { settings: { AUTH_TOKEN: "a b c" }, auth: "Bearer a" });
    expect(compared).toHaveBeenCalledTimes(3);
    for (const [one, other] of compared.mock.calls) {
      expect([one.byteLength, other.byteLength]).toEqual([32, 32]);
    }
  });

  test("is not asked for by public lists, whatever it is", async () => {
    const settings = { PUBLIC_LISTS: "true" };
    const lists = ["/v1/models", "/models", "/v1/audio/models", "/audio/voices/"];
    for (const path of lists) {
      for (const auth of [null, "Bearer wrong"]) {
        const [status, { object }] = await get(path, { settings, auth });
        expect([status, object]).toEqual([200, "list"]);
      }
      expect((await get(path, { auth: null }))[0]).toBe(401);
    }
    for (const path of ["/v1/models/tts-1", "/v1/audio/speech", "/v1/nothing"]) {
      expect((await get(path, { settings, auth: null }))[0]).toBe(401);
    }
    const upload = { settings, auth: null, method: "POST" };
    expect((await get("/v1/audio/voices", upload))[0]).toBe(401);
  });

  test("of nobody is asked for where that is allowed", async () => {
    const settings = { AUTH_TOKEN: "", ALLOW_ANONYMOUS: "true" };
    expect((await get("/v1/models", { settings, auth: null }))[0]).toBe(200);
  });
});

describe("a bridge", () => {
  test.each([
    ["without a token", { AUTH_TOKEN: " " }, "AUTH_TOKEN is not set"],
    ["without a backend", { RUNPOD_URL: "" }, "Set one of RUNPOD_URL and SPEECH_URL"],
    ["with two backends", { SPEECH_URL: "https://x" }, "Set one of RUNPOD_URL and SPEECH_URL"],
    ["with an address that is none", { RUNPOD_URL: "api.runpod.ai" }, "RUNPOD_URL must be an http"],
    ["with a number that is none", { JOB_TIMEOUT_SECONDS: "long" }, "JOB_TIMEOUT_SECONDS must be"],
    ["with a switch that is none", { RUNPOD_STREAM: "maybe" }, "RUNPOD_STREAM must be true or"],
    [
      "with the example's address",
      { RUNPOD_URL: "https://api.runpod.ai/v2/YOUR_ENDPOINT" },
      "YOUR_",
    ],
    [
      "without RunPod's key",
      { RUNPOD_URL: "https://api.runpod.ai/v2/abc", RUNPOD_API_KEY: "" },
      "RUNPOD_API_KEY is not set",
    ],
    ["for two sites", { CORS_ORIGIN: "https://a.test, https://b.test" }, "CORS_ORIGIN must be"],
    ["for a header of its own", { CORS_ORIGIN: "https://a.test\r\nX: 1" }, "CORS_ORIGIN must be"],
    ["with a cache of another kind", { CACHE: "kv" }, "CACHE must be r2 or empty"],
    [
      "with a bucket's name",
      { VIBEVOICE_BUCKET: "vibevoice" },
      "VIBEVOICE_BUCKET must be a binding",
    ],
    ["with a cache and no bucket", { CACHE: "r2" }, "CACHE=r2 needs the bucket"],
  ])("%s serves nothing, and its health says why", async (_, settings, problem) => {
    const [status, { error }] = await get("/v1/models", { settings });
    expect([status, error.code]).toEqual([500, "not_configured"]);
    expect(error.message).not.toMatch(/[A-Z]_[A-Z]/); // the operator's names are the operator's
    const [health, { problems }] = await get("/health", { settings, auth: null });
    expect(health).toBe(503);
    expect(problems.join()).toContain(problem);
  });

  test("that is well says which backend it has", async () => {
    expect(await get("/health", { auth: null })).toEqual([200, { status: "ok", backend: "queue" }]);
  });

  test("with a longer limit takes longer texts", async () => {
    network({ runsync: completed() });
    const input = "a".repeat(5000);
    expect((await speak({ input }, { settings: { OPENAI_INPUT_LIMIT: "5000" } })).status).toBe(200);
  });

  test("may be for one site alone", async () => {
    for (const CORS_ORIGIN of ["https://a.test:8080", "https://a.test:8080/"]) {
      const { headers } = await visit("/health", { settings: { CORS_ORIGIN } }).answer;
      expect(headers.get("Access-Control-Allow-Origin")).toBe("https://a.test:8080");
      expect(headers.get("Vary")).toBe("Origin");
    }
  });
});

test("SDKs in a browser are shown what they retry by", async () => {
  const { headers } = await visit("/v1/models").answer;
  const exposed = headers.get("Access-Control-Expose-Headers").split(", ");
  for (const name of ["X-Request-ID", "Retry-After", "x-should-retry"]) {
    expect(exposed).toContain(name);
  }
});

describe("the log", () => {
  test("has a line a request, without text, key or query", async () => {
    const lines = [];
    for (const level of ["log", "warn", "error"]) {
      vi.spyOn(console, level).mockImplementation((line) => lines.push(line));
    }
    network({
      runsync: [completed(), { id: "job-1", status: "FAILED", error: `oh: ${SPEECH.input}` }],
    });
    await speak();
    await speak();
    await visit("/v1/audio/speech?secret", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: `{"input": "${SPEECH.input}`,
    }).answer;
    expect(lines).toHaveLength(3);
    for (const line of lines) {
      for (const secret of [SPEECH.input, TOKEN, "rpa_1", "secret"])
        expect(line).not.toContain(secret);
    }
    const { request, ...first } = JSON.parse(lines[0]);
    expect(request).toMatch(/^req_/);
    expect(first).toEqual({
      ...{ method: "POST", path: "/v1/audio/speech", status: 200, job: "job-1" },
      ms: expect.any(Number),
    });
  });

  test.each(["audio", "sse"])("says what broke %s off, without its text", async (stream_format) => {
    const lines = [];
    vi.spyOn(console, "log").mockImplementation(() => {});
    vi.spyOn(console, "warn").mockImplementation((line) => lines.push(line));
    const piece = { output: { index: 0, audio_chunk: audio().toBase64() } };
    const error = `oh: ${SPEECH.input}`;
    network({
      run: { id: "job-1", status: "IN_QUEUE" },
      stream: [
        { status: "IN_PROGRESS", stream: [piece] },
        { status: "FAILED", stream: [] },
      ],
      status: { id: "job-1", status: "FAILED", error },
    });
    const headers = { "X-Request-ID": "mine" };
    const answer = await speak({ stream_format }, { settings: { RUNPOD_STREAM: "true" }, headers });
    expect(answer.status).toBe(200);
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      { request: "mine", broke_off: 500, code: null },
    ]);
  });

  test("of what nobody foresaw has the place, not the message", async () => {
    const errors = vi.spyOn(console, "error").mockImplementation(() => {});
    network({ runsync: completed() });
    vi.spyOn(crypto.subtle, "timingSafeEqual").mockImplementation(() => {
      throw new Error(SPEECH.input);
    });
    const answer = await speak();
    expect([answer.status, answer.headers.get("x-should-retry")]).toEqual([500, "false"]);
    expect(answer.text()).not.toContain(SPEECH.input);
    const [[line]] = errors.mock.calls;
    expect(line).toMatch(/^internal error: Error\n +at /);
    expect(line).not.toContain(SPEECH.input);
  });
});

describe("whatever a caller sends", () => {
  const own = Object.keys(schema.properties);
  const values = [
    ...[null, true, false, 0, -1, 1.5, 1e308, "", " ", "x", "\ud800", "\u0000", "__proto__"],
    ...[[], [[]], [null], {}, { id: null }, { id: "x", id2: 1 }, { toString: 1 }, { 1: "Bob" }],
  ];

  test.each([...own, "stream", "constructor"])(
    "as %s is spoken or refused, and no accident",
    async (field) => {
      network({ runsync: completed() });
      for (const value of values) {
        const answer = await speak({ [field]: value });
        expect([200, 400, 404]).toContain(answer.status);
        if (answer.status !== 200) expect(answer.error.param).toBe(field);
      }
    },
  );

  test("as a format is one of which the content type is known", () => {
    expect(Object.keys(CONTENT_TYPES)).toEqual(FORMATS);
  });

  test("as a prototype is a field that nobody knows", async () => {
    network({ runsync: completed() });
    const body =
      '{"model": "tts-1", "voice": "x", "__proto__": {"input": "Hi."}, "constructor": 1}';
    expect((await speak({}, { body })).error.param).toBe("input");
    const whole = body.replace("{", '{"input": "Hi.", ');
    const answer = await speak({}, { body: whole });
    expect(answer.headers.get("X-Speech-Ignored")).toBe("__proto__; constructor");
  });

  test("as an address is a 404", async () => {
    for (const path of ["/v1/models/%", "/v1/models/%zz", "/v1/models/a/b", "//"]) {
      expect((await get(path))[0]).toBe(404);
    }
  });

  test.each(["/v1/models/", "//v1//models", "/v1/models//"])(
    "with slashes too many is the same: %s",
    async (path) => {
      expect(await get(path)).toEqual(await get("/v1/models"));
    },
  );

  test.each(["/models", "/audio/speech", "/audio/voices/", "/models/tts-1"])(
    "without /v1 is told so: %s",
    async (path) => {
      const [status, { error }] = await get(path);
      expect([status, error.code]).toEqual([404, "unknown_url"]);
      expect(error.message).toContain("The base address has to end in /v1");
    },
  );

  test("as an address of nothing is told no such thing", async () => {
    expect((await get("/audio/sing"))[1].error.message).not.toContain("/v1");
  });

  test("whose body is no UTF-8 is no JSON", async () => {
    const body = new TextEncoder().encode(JSON.stringify({ ...SPEECH, input: "caf\u00e9" }));
    const latin1 = body.filter((byte) => byte !== 0xc3);
    expect((await speak({}, { body: latin1 })).error.code).toBe("invalid_json");
    expect((await speak({}, { body: body.slice(0, -4) })).error.code).toBe("invalid_json");
  });

  test.each(["/v1/audio/voices", "/v1/audio/voice_consents"])(
    "to keep a voice says where voices go: %s",
    async (path) => {
      const { answer } = visit(path, { method: "POST", body: "x" });
      const response = await answer;
      const { error } = await response.json();
      expect([response.status, error.code]).toEqual([501, "not_supported"]);
      expect(error.message).toContain("voice_base64");
    },
  );
});
