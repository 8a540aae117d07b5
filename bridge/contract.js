/**
 * What a caller may ask for: OpenAI's `CreateSpeechRequest`, and fields of the worker's own.
 *
 * `parseAsk` gives a whole `Ask` or raises the error that OpenAI would. Which fields there are and
 * what they take is written in `request.schema.json`. Fields that nobody knows never fail a request:
 * `ignored` names them. Characters are code points, as OpenAI counts them.
 */

import { invalid } from "./errors.js";
import { isDefault } from "./models.js";
import schema from "./request.schema.json";
import { isObject, taken, wrong } from "./values.js";

/** @import { Format } from "./audio.js" */
/** @import { Schema } from "./values.js" */

/**
 * @typedef {object} Ask
 * @property {string | null} model null for the backend's default
 * @property {string} text
 * @property {string} voice as the caller names it
 * @property {Format} format
 * @property {number} speed
 * @property {boolean} sse
 * @property {Record<string, unknown>} extras fields of the worker's own
 * @property {string[]} ignored fields that change nothing
 */

/** @type {Record<string, Schema>} */
const FIELDS = schema.properties;
const [FIRST, SECOND] = schema.not.required;
const OPENAIS = new Set(schema["x-openai"]);
const VISIBLE = new RegExp(schema.properties.input.pattern, "u");

/**
 * Bytes of a body that no request within the limits exceeds, but for a recording in it;
 * \ud83d\ude00 is one character.
 */
export const mostBytes = (/** @type {number} */ inputLimit) => 2 ** 20 + 12 * inputLimit;

export const MOST_RECORDING = schema.properties.voice_base64.maxLength;

/** The characters of the recording in a body. @param {unknown} body */
export function recordingLength(body) {
  const recording = isObject(body) ? body.voice_base64 : null;
  return typeof recording === "string" ? recording.length : 0;
}

/**
 * @param {unknown} body
 * @param {number} inputLimit
 * @param {boolean} [anyModel] whether the backend says itself which models there are
 * @returns {Ask}
 */
export function parseAsk(body, inputLimit, anyModel = false) {
  if (!isObject(body)) {
    throw invalid(null, "invalid_value", "The body must be a JSON object.");
  }
  const given = Object.fromEntries(
    Object.entries(body).filter(([name, value]) => value !== null || takesNull(name)),
  );
  for (const name of schema.required) {
    if (given[name] === undefined) {
      throw invalid(name, "missing_required_parameter", `Missing required parameter: '${name}'.`);
    }
  }
  const read = (/** @type {string} */ name) => taken(name, FIELDS[name], given[name]);
  const named = given.model === undefined ? null : String(read("model"));
  const model = named && !anyModel && isDefault(named) ? null : named;
  const text = inputOf(given.input, inputLimit);
  if (given.instructions !== undefined) read("instructions");
  const voice = nameIn(read("voice"));
  const format = oneOf(given, "response_format", "unsupported_format");
  const speed = given.speed === undefined ? FIELDS.speed.default : read("speed");
  const sse = oneOf(given, "stream_format") === "sse";
  const names = Object.keys(FIELDS).filter(
    (name) => !OPENAIS.has(name) && given[name] !== undefined,
  );
  const extras = Object.fromEntries(names.map((name) => [name, read(name)]));
  if (extras[FIRST] && extras[SECOND]) {
    throw wrong(FIRST, `it comes with ${SECOND}, and only one can speak`);
  }
  const ignored = Object.keys(given).filter((name) => !counts(name));
  return {
    model,
    text,
    voice,
    format: /** @type {Format} */ (format),
    speed,
    sse,
    extras,
    ignored,
  };
}

/** @param {string} name */
function takesNull(name) {
  const branches = Object.hasOwn(FIELDS, name) ? (FIELDS[name].anyOf ?? []) : [];
  return branches.some(({ type }) => type === "null");
}

/** Whether a field is no news to its caller as one that changes nothing. @param {string} name */
function counts(name) {
  // `stream` is in no contract, and clients send it: the answer is a stream in any case.
  return name === "stream" || (Object.hasOwn(FIELDS, name) && name !== "instructions");
}

/** @param {unknown} value @param {number} inputLimit */
function inputOf(value, inputLimit) {
  const { pattern: _, ...input } = FIELDS.input;
  const text = String(taken("input", { ...input, maxLength: inputLimit }, value));
  if (!VISIBLE.test(text)) throw wrong("input", "there is nothing to say");
  return text;
}

/** OpenAI also writes a voice as `{"id": "name"}`. @param {unknown} voice */
export function nameIn(voice) {
  return String(isObject(voice) ? voice.id : voice);
}

/**
 * @template T
 * @param {Record<string, unknown> | unknown[]} value
 * @param {(value: unknown) => T} change
 * @returns {Record<string, T> | T[]}
 */
export function mapValues(value, change) {
  if (Array.isArray(value)) return value.map(change);
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, change(each)]));
}

/** @param {Record<string, unknown>} given @param {string} name */
function oneOf(given, name, code = "invalid_value") {
  const { enum: allowed = [], default: usual } = FIELDS[name];
  if (given[name] === undefined) return usual;
  const value = String(taken(name, { type: "string" }, given[name]));
  if (allowed.includes(value)) return value;
  const listed = allowed.map((each) => `'${each}'`).join(", ");
  const shown = value.slice(0, 50);
  throw invalid(name, code, `Invalid value: '${shown}'. Supported values are: ${listed}.`);
}
