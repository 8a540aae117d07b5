/**
 * What a caller may ask for: OpenAI's `CreateSpeechRequest`, and fields of the worker's own.
 *
 * `parseAsk` gives a whole `Ask` or raises the error that OpenAI would. Fields that nobody knows
 * never fail a request: `ignored` names them. Characters are code points, as OpenAI counts them.
 */

import { FORMATS } from "./audio.js";
import { invalid } from "./errors.js";
import { getModel } from "./models.js";

/** @import { Format } from "./audio.js" */

/**
 * @typedef {object} Ask
 * @property {string} text
 * @property {string} voice as the caller names it
 * @property {Format} format
 * @property {number} speed
 * @property {boolean} sse
 * @property {Record<string, unknown>} extras fields of the worker's own
 * @property {string[]} ignored fields that change nothing
 */

const MOST_INSTRUCTIONS = 4096;
const MOST_NAME = 200;
const MOST_PRONUNCIATIONS = 500;
const MOST_SPEAKERS = 4;

/** Bytes of a body that no request within the limits exceeds; \ud83d\ude00 is one character. */
export const mostBytes = (/** @type {number} */ inputLimit) => 2 ** 20 + 12 * inputLimit;

/** @param {unknown} body @param {number} inputLimit @returns {Ask} */
export function parseAsk(body, inputLimit) {
  if (!isObject(body)) {
    throw invalid(null, "invalid_value", "The body must be a JSON object.");
  }
  const given = Object.fromEntries(
    Object.entries(body).filter(([name, value]) => value !== null || name === "loudness"),
  );
  for (const name of ["model", "input", "voice"]) {
    if (given[name] === undefined) {
      throw invalid(name, "missing_required_parameter", `Missing required parameter: '${name}'.`);
    }
  }
  getModel(string(given, "model", 1, 1000));
  const text = string(given, "input", 1, inputLimit);
  if (!text.trim()) throw wrong("input", "there is nothing to say");
  if (given.instructions !== undefined) string(given, "instructions", 0, MOST_INSTRUCTIONS);
  /** @type {Record<string, unknown>} */
  const extras = {};
  for (const [name, check] of Object.entries(EXTRAS)) {
    if (given[name] !== undefined) extras[name] = check(given, name);
  }
  return {
    text,
    voice: voiceName(given.voice, "voice"),
    format: oneOf(given, "response_format", FORMATS, "unsupported_format"),
    speed: given.speed === undefined ? 1 : number(given, "speed", 0.25, 4),
    sse: oneOf(given, "stream_format", ["audio", "sse"]) === "sse",
    extras,
    ignored: Object.keys(given).filter((name) => !SPOKEN.has(name) && !Object.hasOwn(EXTRAS, name)),
  };
}

/** `stream` is in no contract, and clients send it: the answer is a stream in any case. */
const SPOKEN = new Set([
  ...["model", "input", "voice", "response_format", "speed", "stream_format", "stream"],
]);

/** @typedef {Record<string, unknown>} Fields */

/** @type {Record<string, (fields: Fields, name: string) => unknown>} */
const EXTRAS = {
  seed: (fields, name) => whole(fields, name, 0, 2 ** 32 - 1),
  steps: (fields, name) => whole(fields, name, 1, 100),
  cfg_scale: (fields, name) => number(fields, name, Number.MIN_VALUE, 10),
  loudness: (fields, name) => (fields[name] === null ? null : number(fields, name, -40, -6)),
  disable_prefill: (fields, name) => {
    if (typeof fields[name] === "boolean") return fields[name];
    throw wrongType(name, "a boolean", fields[name]);
  },
  voice_url: (fields, name) => {
    const url = string(fields, name, 1, 2000);
    if (/^https?:\/\/\S+$/.test(url)) return url;
    throw wrong(name, "expected an http or https address");
  },
  pronunciations: (fields, name) => {
    const value = fields[name];
    if (!isObject(value)) throw wrongType(name, "an object", value);
    const words = Object.entries(value);
    if (words.length > MOST_PRONUNCIATIONS) {
      throw wrong(name, `expected at most ${MOST_PRONUNCIATIONS} words`);
    }
    for (const [word, said] of words) {
      if (![word, said].every((each) => typeof each === "string" && /^.{1,100}$/su.test(each))) {
        throw wrong(name, "words and respellings are strings of 1 to 100 characters");
      }
    }
    return value;
  },
  speakers: (fields, name) => {
    const value = fields[name];
    if (!Array.isArray(value) && !isObject(value)) throw wrongType(name, "an object", value);
    const count = Object.keys(value).length;
    if (count < 1 || count > MOST_SPEAKERS) {
      throw wrong(name, `expected 1 to ${MOST_SPEAKERS} voices`);
    }
    if (!Array.isArray(value) && Object.keys(value).some((key) => !/^\d{1,3}$/.test(key))) {
      throw wrong(name, "expected the speakers' numbers as keys");
    }
    return mapValues(value, (voice) => voiceName(voice, name));
  },
};

/**
 * @template T
 * @param {Fields | unknown[]} value
 * @param {(value: unknown) => T} change
 * @returns {Record<string, T> | T[]}
 */
export function mapValues(value, change) {
  if (Array.isArray(value)) return value.map(change);
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, change(each)]));
}

/** @param {unknown} value @param {string} param */
function voiceName(value, param) {
  const name = isObject(value) ? value.id : value;
  if (isObject(value) && Object.keys(value).join() !== "id") {
    throw wrong(param, "expected a name or an object with just an 'id'");
  }
  if (typeof name !== "string") throw wrongType(param, "a string", name);
  return string({ [param]: name }, param, 1, MOST_NAME);
}

/** @param {unknown} value @returns {value is Fields} */
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @param {Fields} fields @param {string} name @param {number} least @param {number} most */
function string(fields, name, least, most) {
  const value = fields[name];
  if (typeof value !== "string") throw wrongType(name, "a string", value);
  const length = value.length > most ? [...value].length : value.length;
  if (length > most) {
    throw invalid(
      name,
      "string_above_max_length",
      `Invalid '${name}': string too long. Expected a string with maximum length ${most}, ` +
        `but got a string with length ${length} instead.`,
    );
  }
  if (length < least) throw wrong(name, "expected a string that is not empty");
  return value.toWellFormed();
}

/** @param {Fields} fields @param {string} name @param {number} least @param {number} most */
function number(fields, name, least, most) {
  const value = fields[name];
  if (typeof value !== "number") throw wrongType(name, "a number", value);
  if (value >= least && value <= most) return value;
  const above = least === Number.MIN_VALUE ? "above 0 and" : `from ${least}`;
  throw wrong(name, `expected a number ${above} up to ${most}, but got ${value} instead`);
}

/** @param {Fields} fields @param {string} name @param {number} least @param {number} most */
function whole(fields, name, least, most) {
  const value = number(fields, name, least, most);
  if (Number.isInteger(value)) return value;
  throw wrong(name, `expected a whole number, but got ${value} instead`);
}

/**
 * The first of `allowed` is the default.
 *
 * @template {string} T
 * @param {Fields} fields
 * @param {string} name
 * @param {T[]} allowed
 * @returns {T}
 */
function oneOf(fields, name, allowed, code = "invalid_value") {
  const value = fields[name] ?? allowed[0];
  if (typeof value !== "string") throw wrongType(name, "a string", value);
  const found = allowed.find((each) => each === value);
  if (found) return found;
  const listed = allowed.map((each) => `'${each}'`).join(", ");
  const shown = value.slice(0, 50);
  throw invalid(name, code, `Invalid value: '${shown}'. Supported values are: ${listed}.`);
}

/** @param {string} name @param {string} problem */
function wrong(name, problem) {
  return invalid(name, "invalid_value", `Invalid '${name}': ${problem}.`);
}

/** @param {string} name @param {string} expected @param {unknown} value */
function wrongType(name, expected, value) {
  const kind = Array.isArray(value) ? "array" : value === null ? "null" : typeof value;
  const got =
    kind === "null" || kind === "undefined"
      ? kind
      : `${/^[aeiou]/.test(kind) ? "an" : "a"} ${kind}`;
  return invalid(
    name,
    "invalid_type",
    `Invalid type for '${name}': expected ${expected}, but got ${got} instead.`,
  );
}
