/**
 * The voice map: OpenAI's names and yours, each with the worker's name for it.
 *
 * It lies in R2 as `voices.json`, `{"alloy": "Alice", ...}`; where there is no bucket or no such
 * file, the one beside this module counts. A copy lives for a minute, is refreshed in the
 * background, and stays where R2 fails or holds nothing usable. A name that is not in the map is
 * taken for one of the worker's own.
 */

import schema from "./request.schema.json";
import ours from "./voices.json";

const FILE = "voices.json";
const LIFE_MS = 60_000;
const MOST_BYTES = 256 * 1024;
const MOST_VOICES = 1000;
const [{ maxLength: LONGEST_NAME = 0 }] = schema.properties.voice.anyOf;

/** @typedef {Record<string, string>} Names */

export class VoiceMap {
  /** @param {R2Bucket | null} bucket */
  constructor(bucket) {
    this.bucket = bucket;
    /** @type {Names} */
    this.names = ours;
    this.readAt = 0;
    /** Why the file in R2 is not in use, if it is not. */
    this.problem = "";
  }

  /**
   * Makes sure that the map is there and fresh enough.
   *
   * @param {(work: Promise<unknown>) => void} waitUntil
   */
  async ready(waitUntil) {
    const age = Date.now() - this.readAt;
    if (!this.bucket || age < LIFE_MS) return;
    const first = !this.readAt;
    // Noted before the answer comes, so that one request of many refreshes.
    if (!first) this.readAt = Date.now();
    const reading = this.refresh(this.bucket);
    if (first) await reading;
    else waitUntil(reading);
  }

  /** @param {R2Bucket} bucket */
  async refresh(bucket) {
    try {
      const object = await bucket.get(FILE);
      this.names = object ? checked(await textOf(object)) : ours;
      this.problem = "";
    } catch (error) {
      this.problem = error instanceof BadMap ? error.message : "R2 cannot be read";
      console.warn(`${FILE}: ${this.problem}; the last good copy stays`);
    }
    this.readAt = Date.now();
  }

  /** The worker's name for a voice. @param {string} name */
  resolve(name) {
    const found = Object.hasOwn(this.names, name) ? name : name.toLowerCase();
    return Object.hasOwn(this.names, found) ? this.names[found] : name;
  }
}

/**
 * The answer of /v1/audio/voices, in every shape that clients are known to read.
 *
 * @param {string[]} ids
 */
export function listVoices(ids) {
  const voices = ids.map((id) => ({ id, name: id, object: "audio.voice" }));
  return { object: "list", data: voices, voices };
}

class BadMap extends Error {}

/** @param {R2ObjectBody} object */
async function textOf(object) {
  if (object.size > MOST_BYTES) throw new BadMap(`has more than ${MOST_BYTES} bytes`);
  return object.text();
}

/** @param {string} text @returns {Names} */
function checked(text) {
  let map;
  try {
    map = JSON.parse(text);
  } catch {
    throw new BadMap("is no JSON");
  }
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new BadMap("is no object");
  }
  const entries = Object.entries(map);
  if (entries.length < 1 || entries.length > MOST_VOICES) {
    throw new BadMap(`has ${entries.length} voices, not 1 to ${MOST_VOICES}`);
  }
  for (const [name, voice] of entries) {
    for (const part of [name, voice]) {
      if (typeof part !== "string" || !part.trim() || part.length > LONGEST_NAME) {
        throw new BadMap(`voice '${name.slice(0, 50)}' is no pair of names`);
      }
    }
  }
  return map;
}
