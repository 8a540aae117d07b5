/**
 * What is known about an answer besides its audio, and the headers that say so.
 *
 * @typedef {object} Facts
 * @property {string} [engine]
 * @property {string} [voice] who really spoke
 * @property {number} [seed] for the same take again
 * @property {number} [seconds] of audio
 * @property {number} [queueMs]
 * @property {number} [synthMs]
 * @property {string} [job]
 * @property {string[]} [warnings] what was replaced or left out, in sentences
 * @property {string[]} [ignored] fields of the request that changed nothing
 * @property {"hit" | "miss"} [cache]
 * @property {Record<string, unknown>[]} [heard] what was heard of each chunk, with its words
 * @property {string} [subtitles] a file
 */

/** @type {[keyof Facts, string][]} */
const HEADERS = [
  ["engine", "X-Speech-Engine"],
  ["voice", "X-Speech-Voice"],
  ["seed", "X-Speech-Seed"],
  ["seconds", "X-Speech-Seconds"],
  ["queueMs", "X-Speech-Queue-Ms"],
  ["synthMs", "X-Speech-Synth-Ms"],
  ["job", "X-Speech-Job"],
  ["warnings", "X-Speech-Warnings"],
  ["ignored", "X-Speech-Ignored"],
  ["cache", "X-Speech-Cache"],
];
const NUMBERS = new Set(["seed", "seconds", "queueMs", "synthMs"]);
const MOST_CHARACTERS = 1000;

/** The names of all headers of ours, which browsers hide unless told. */
export const EXPOSED = ["X-Speech-Total-Ms", ...HEADERS.map(([, header]) => header)];

/** @param {Facts} facts @returns {Record<string, string>} */
export function headersOf(facts) {
  /** @type {Record<string, string>} */
  const headers = {};
  for (const [name, header] of HEADERS) {
    const value = facts[name];
    if (value === undefined || (Array.isArray(value) && !value.length)) continue;
    headers[header] = printable(Array.isArray(value) ? value.join("; ") : String(value));
  }
  return headers;
}

/** @param {Headers} headers of a server that sends what `headersOf` gives @returns {Facts} */
export function factsFrom(headers) {
  /** @type {Record<string, unknown>} */
  const facts = {};
  for (const [name, header] of HEADERS) {
    const value = headers.get(header);
    if (value === null || name === "cache" || name === "ignored") continue;
    facts[name] = NUMBERS.has(name) ? Number(value) : name === "warnings" ? [value] : value;
  }
  return facts;
}

/** Headers carry ASCII; a caller's words may be in a warning. @param {string} text */
function printable(text) {
  return text.replace(/[^ -~]/g, "?").slice(0, MOST_CHARACTERS);
}
