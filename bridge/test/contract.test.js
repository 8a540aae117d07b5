/** The conformance list: tests/openai_contract.json, against a worker that gives known bytes. */

import { beforeEach, describe, expect, test } from "vitest";
import contract from "../../tests/openai_contract.json";
import { CONTENT_TYPES } from "../audio.js";
import { audio, completed, eventsOf, network, TOKEN, visit } from "./fakes.js";

const METHODS = ["get", "post", "head", "options"];

beforeEach(() => {
  network({
    runsync: ({ body: { input } }) => {
      if (input.model && input.model.toLowerCase() !== "vibevoice")
        return unknownModel(input.model);
      const size = Math.round(10_000 / input.speed);
      const format = input.response_format;
      return completed(audio(format, size), { format, duration_sec: 2 / input.speed });
    },
  });
});

/** The worker's own words for a model that it has not. */
function unknownModel(name) {
  const error = `[model_not_found] model: '${name}' does not exist (allowed: vibevoice, tts-1)`;
  return { id: "job-1", status: "FAILED", error };
}

function requestOf(expected) {
  const method = METHODS.find((each) => each in expected);
  const json = { "Content-Type": "application/json" };
  const posted = !method || "body" in expected;
  const init = { headers: { ...(posted && json), ...expected.headers }, body: expected.body };
  if ("auth" in expected) init.auth = expected.auth;
  else init.auth = `Bearer ${TOKEN}`;
  if (method) return [expected[method], { ...init, method: method.toUpperCase() }];
  const filled = Object.entries(expected.fill ?? {}).map(([name, [text, times]]) => [
    name,
    text.repeat(times),
  ]);
  const fields = { ...contract.speech, ...expected.speech, ...Object.fromEntries(filled) };
  const given = Object.entries(fields).filter(([, value]) => value !== null);
  return [
    "/v1/audio/speech",
    { ...init, method: "POST", body: JSON.stringify(Object.fromEntries(given)) },
  ];
}

/** Asserts that `part` is in `whole`; the items of a list may be anywhere in it. */
function contains(whole, part) {
  if (Array.isArray(part)) {
    for (const item of part) expect(whole).toContainEqual(expect.objectContaining(item));
  } else if (typeof part === "object") {
    for (const name of Object.keys(part)) contains(whole[name], part[name]);
  } else {
    expect(whole).toBe(part);
  }
}

for (const [line, cases] of Object.entries(contract.lines)) {
  describe(line, () => {
    test.each(cases.map((each) => [each.name, each]))("%s", async (_, expected) => {
      const [path, init] = requestOf(expected);
      const { answer, settled } = visit(path, init);
      const response = await answer;
      const bytes = new Uint8Array(await response.arrayBuffer());
      await settled();
      const type = response.headers.get("Content-Type");
      expect(response.status).toBe(expected.status ?? 200);
      expect(response.headers.get("X-Request-ID")).toMatch(/./);
      for (const [name, value] of Object.entries(expected.answers ?? {})) {
        const given = response.headers.get(name);
        if (value.startsWith("~")) expect(given).toMatch(new RegExp(value.slice(1)));
        else expect(given).toBe(value);
      }
      const size = 10_000 / Number(expected.speech?.speed ?? 1);
      if (expected.error) {
        expect(type).toBe("application/json");
        const { error, ...rest } = JSON.parse(new TextDecoder().decode(bytes));
        expect(rest).toEqual({});
        expect(error).toEqual({
          message: expect.stringMatching(/./),
          type: "invalid_request_error",
          ...expected.error,
        });
      } else if (expected.audio) {
        expect(type).toBe(CONTENT_TYPES[expected.audio]);
        expect(bytes).toEqual(audio(expected.audio, size));
      } else if (expected.events) {
        expect(type).toBe("text/event-stream; charset=utf-8");
        expect(response.headers.get("Cache-Control")).toBe("no-store");
        const events = eventsOf(new TextDecoder().decode(bytes));
        const deltas = events.slice(0, -2);
        const heard = deltas.map(({ audio: part }) => [...Uint8Array.fromBase64(part)]);
        expect(new Set(deltas.map((event) => Object.keys(event).join()))).toEqual(
          new Set(["type,audio"]),
        );
        expect(heard.slice(0, -1).every((part) => part.length === 4096)).toBe(true);
        expect(new Uint8Array(heard.flat())).toEqual(audio(expected.events, size));
        const { type: last, usage } = events.at(-2);
        expect(last).toBe("speech.audio.done");
        expect(usage).toEqual({
          input_tokens: 11,
          output_tokens: expect.any(Number),
          total_tokens: 11 + usage.output_tokens,
        });
        expect(events.at(-1)).toBe("[DONE]");
      } else if (expected.json) {
        contains(JSON.parse(new TextDecoder().decode(bytes)), expected.json);
      }
      if (init.method === "HEAD" || expected.empty) expect(bytes).toHaveLength(0);
    });
  });
}
