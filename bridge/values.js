/**
 * The values of a request, taken as the worker takes them: by the JSON schema that its own model is
 * written into (`request.schema.json`, by `python -m tools.contract`). This reads the keywords that
 * stand in it. Beyond JSON Schema it takes texts for numbers and booleans, as `x-texts` says.
 */

import { invalid } from "./errors.js";
import schema from "./request.schema.json";

/** @import { ApiError } from "./errors.js" */

/**
 * @typedef {object} Schema
 * @property {string} [type]
 * @property {Schema[]} [anyOf]
 * @property {string} [description] what is allowed, in words
 * @property {string[]} [enum]
 * @property {string[]} [examples]
 * @property {any} [default]
 * @property {number} [minimum]
 * @property {number} [exclusiveMinimum]
 * @property {number} [maximum]
 * @property {number} [minLength] in code points
 * @property {number} [maxLength]
 * @property {string} [pattern]
 * @property {string} [contentEncoding]
 * @property {number} [minProperties]
 * @property {number} [maxProperties]
 * @property {number} [minItems]
 * @property {number} [maxItems]
 * @property {string[]} [required]
 * @property {Record<string, Schema>} [properties]
 * @property {Schema} [propertyNames]
 * @property {Schema | boolean} [additionalProperties]
 * @property {Schema} [items]
 */

/** @typedef {{ name: string, expected: string }} Field what an error says of it */
/** @typedef {(field: Field, schema: Schema, value: any) => unknown} Taker */

const TEXTS = schema["x-texts"];
const NUMBERS = { number: new RegExp(TEXTS.number, "u"), integer: new RegExp(TEXTS.integer, "u") };
const NOT_FINITE = new RegExp(TEXTS.not_finite, "u");
/** @type {Map<string, RegExp>} */
const patterns = new Map();

/** @type {Record<string, Taker>} */
const TAKERS = { null: () => null, boolean, number, integer: number, string, object, array };

/**
 * A field's value as the worker reads it. Raises a 400.
 *
 * @param {string} name
 * @param {Schema} schema
 * @param {unknown} value
 */
export function taken(name, schema, value) {
  return take({ name, expected: schema.description ?? "another value" }, schema, value);
}

/** @type {Taker} */
function take(field, schema, value) {
  const { anyOf } = schema;
  if (!anyOf) return TAKERS[schema.type ?? "string"](field, schema, value);
  return take(field, anyOf.find(({ type }) => isOf(type, value)) ?? anyOf[0], value);
}

/** @param {string | undefined} type @param {unknown} value */
function isOf(type, value) {
  return type === (typeof value === "number" && type === "integer" ? type : typeOf(value));
}

/** In JSON's words. @param {unknown} value */
function typeOf(value) {
  return Array.isArray(value) ? "array" : value === null ? "null" : typeof value;
}

/** @param {unknown} value @returns {value is Record<string, unknown>} */
export function isObject(value) {
  return typeOf(value) === "object";
}

/** @type {Taker} */
function boolean(field, schema, value) {
  if (typeof value === "boolean") return value;
  if (value === 0 || value === 1) return value === 1;
  const word = typeof value === "string" ? value.toLowerCase() : "";
  if (TEXTS.true.includes(word)) return true;
  if (TEXTS.false.includes(word)) return false;
  throw wrongType(field, schema, value);
}

/** @type {Taker} */
function number(field, schema, value) {
  const whole = schema.type === "integer";
  const read = typeof value === "string" ? numberIn(value, whole) : value;
  if (typeof read !== "number") throw wrongType(field, schema, value);
  if (whole && Number.isFinite(read) && !Number.isInteger(read)) {
    throw wrongType(field, schema, read);
  }
  const { minimum = -Infinity, exclusiveMinimum = -Infinity, maximum = Infinity } = schema;
  if (read >= minimum && read > exclusiveMinimum && read <= maximum) return read;
  const from = "minimum" in schema ? `from ${minimum}` : `above ${exclusiveMinimum} and`;
  throw wrong(field.name, `expected a number ${from} up to ${maximum}, but got ${read} instead`);
}

/** The number in a text, NaN for one that is not finite. @param {string} text @param {boolean} whole */
function numberIn(text, whole) {
  if (NUMBERS[whole ? "integer" : "number"].test(text)) return Number(text);
  return !whole && NOT_FINITE.test(text) ? Number.NaN : undefined;
}

/** @type {Taker} */
function string(field, schema, value) {
  if (typeof value !== "string") throw wrongType(field, schema, value);
  const { minLength = 0, maxLength = Infinity, pattern, contentEncoding } = schema;
  const encoded = contentEncoding ? recordingIn(value) : value;
  const length = encoded.length > maxLength ? [...encoded].length : encoded.length;
  if (length > maxLength) {
    throw invalid(
      field.name,
      "string_above_max_length",
      `Invalid '${field.name}': string too long. Expected a string with maximum length ` +
        `${maxLength}, but got a string with length ${length} instead.`,
    );
  }
  if (length < minLength) throw wrong(field.name, "expected a string that is not empty");
  if (pattern && !regExp(pattern).test(value.toWellFormed())) throw unfit(field);
  if (contentEncoding && !isBase64(encoded)) throw unfit(field);
  return value.toWellFormed();
}

/** Without what a `data:` URL puts before it. @param {string} text */
function recordingIn(text) {
  if (!text.startsWith("data:")) return text;
  const at = text.indexOf(";base64,");
  return at < 0 ? "" : text.slice(at + ";base64,".length);
}

/** @param {string} text */
function isBase64(text) {
  // One pass and no group: a pattern of groups overflows its stack within a recording.
  return text.length % 4 === 0 && !/[^A-Za-z0-9+/]/.test(text.replace(/={1,2}$/, ""));
}

/** @param {string} pattern */
function regExp(pattern) {
  const made = patterns.get(pattern) ?? new RegExp(pattern, "u");
  patterns.set(pattern, made);
  return made;
}

/** @type {Taker} */
function array(field, schema, value) {
  if (!Array.isArray(value)) throw wrongType(field, schema, value);
  const { minItems = 0, maxItems = Infinity, items = {} } = schema;
  if (value.length < minItems || value.length > maxItems) throw unfit(field);
  return all(value, (each) => take(field, items, each));
}

/** @type {Taker} */
function object(field, schema, value) {
  if (!isObject(value)) throw wrongType(field, schema, value);
  const { properties = {}, required = [], propertyNames, additionalProperties = true } = schema;
  const { minProperties = 0, maxProperties = Infinity } = schema;
  const names = Object.keys(value);
  if (names.length < minProperties || names.length > maxProperties) throw unfit(field);
  const known = (/** @type {string} */ name) => Object.hasOwn(properties, name);
  if (
    !required.every((name) => Object.hasOwn(value, name)) ||
    (additionalProperties === false && !names.every(known))
  ) {
    throw wrong(field.name, `expected a name or an object with just an '${required}'`);
  }
  const others = typeof additionalProperties === "object" ? additionalProperties : {};
  return Object.fromEntries(
    all(Object.entries(value), ([name, each]) => {
      const checks = [() => take(field, known(name) ? properties[name] : others, each)];
      if (propertyNames) checks.push(() => take(field, propertyNames, name));
      return [name, all(checks, (check) => check())[0]];
    }),
  );
}

/**
 * What `change` makes of each. Of several errors the first by its code is raised, since the order of
 * an object's fields differs between languages.
 *
 * @template T, R
 * @param {T[]} values
 * @param {(value: T) => R} change
 * @returns {R[]}
 */
function all(values, change) {
  /** @type {R[]} */
  const made = [];
  /** @type {ApiError | undefined} */
  let first;
  for (const value of values) {
    try {
      made.push(change(value));
    } catch (error) {
      const found = /** @type {ApiError} */ (error);
      if (!first || codeOf(found) < codeOf(first)) first = found;
    }
  }
  if (first) throw first;
  return made;
}

/** @param {ApiError} error */
const codeOf = (error) => error.body.error.code ?? "";

/** @param {Field} field */
const unfit = ({ name, expected }) => wrong(name, `expected ${expected}`);

/** @param {string} name @param {string} problem */
export function wrong(name, problem) {
  return invalid(name, "invalid_value", `Invalid '${name}': ${problem}.`);
}

/** @param {Field} field @param {Schema} schema @param {unknown} value */
function wrongType({ name }, { type = "string" }, value) {
  const decimal = type === "integer" && typeof value === "number" ? "decimal number" : null;
  const got = value === null ? "null" : article(decimal ?? typeOf(value));
  const problem = `Invalid type for '${name}': expected ${article(type)}, but got ${got} instead.`;
  return invalid(name, "invalid_type", problem);
}

/** @param {string} word */
const article = (word) => `${/^[aeiou]/.test(word) ? "an" : "a"} ${word}`;
