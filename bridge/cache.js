/**
 * Answers kept in R2 (CACHE=r2), for requests that would get the same one again.
 *
 * The key is a hash of all that shapes the sound: text, voices, their map and their recordings,
 * format, speed, the worker's own fields, the backend. Requests without a seed ask for another take each time, so they
 * pass by unless CACHE_UNSEEDED is set. Only whole answers are kept, up to CACHE_MAX_BYTES, and none
 * is given that is older than CACHE_TTL_SECONDS; a lifecycle rule of the bucket removes them.
 */

import { sha256 } from "./digest.js";
import { bytesOf } from "./streams.js";

/** @import { Ask } from "./contract.js" */
/** @import { Facts } from "./facts.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Speech } from "./speech.js" */

const VERSION = 3;
/** R2 takes 8 KiB of facts with an object, and workerd's own 2 KiB, with 2 bytes a character. */
const MOST_WARNINGS = 500;

export class Cache {
  /** @param {Settings} settings */
  constructor(settings) {
    this.settings = settings;
    this.bucket = /** @type {R2Bucket} */ (settings.bucket);
  }

  /**
   * Where the answer to a request lies, or null for one that is not to be kept.
   *
   * @param {Ask} ask whose voices are the worker's
   * @param {Record<string, string>} names the voice map
   * @param {(names: string[]) => Promise<unknown>} stateOf the voices' recordings; null if unknown
   * @returns {Promise<string | null>}
   */
  async nameOf(ask, names, stateOf) {
    const { cache, cacheUnseeded, runpodUrl, speechUrl } = this.settings;
    if (!cache || (ask.extras.seed === undefined && !cacheUnseeded)) return null;
    const { model, text, voice, format, speed, extras } = ask;
    const speakers = Object.values(/** @type {object} */ (extras.speakers ?? {}));
    const state = await stateOf([voice, ...speakers].map(String));
    if (!state) return null; // a voice that was deleted or replaced must not speak on
    const sorted = Object.entries(extras).sort(([one], [other]) => (one < other ? -1 : 1));
    const all = [
      VERSION,
      runpodUrl || speechUrl,
      model,
      text,
      voice,
      format,
      speed,
      sorted,
      names,
      state,
    ];
    return `cache/${(await sha256(JSON.stringify(all))).toHex()}`;
  }

  /** @param {string} name @returns {Promise<Speech | null>} */
  async get(name) {
    const object = await this.bucket.get(name).catch(() => null);
    if (!object) return null; // never kept, or R2 fails
    if (Date.now() - object.uploaded.getTime() > this.settings.cacheTtlMs) {
      await object.body.cancel();
      return null;
    }
    /** @type {Facts} */
    const facts = { ...JSON.parse(object.customMetadata?.facts ?? "{}"), cache: "hit" };
    const contentType = object.httpMetadata?.contentType ?? "application/octet-stream";
    return { chunks: bytesOf(object.body), length: object.size, contentType, facts: () => facts };
  }

  /**
   * The same speech, of which a copy is kept once it has passed whole.
   *
   * @param {string} name
   * @param {Speech} speech
   * @param {(work: Promise<unknown>) => void} waitUntil
   * @returns {Speech}
   */
  keep(name, speech, waitUntil) {
    const copy = (/** @type {Uint8Array[]} */ kept) => waitUntil(this.put(name, speech, kept));
    const chunks = speech.unsure ? speech.chunks : this.copied(speech.chunks, copy);
    return { ...speech, chunks, facts: () => ({ ...speech.facts(), cache: "miss" }) };
  }

  /** @param {AsyncGenerator<Uint8Array>} chunks @param {(kept: Uint8Array[]) => void} copy */
  async *copied(chunks, copy) {
    /** @type {Uint8Array[]} */
    let kept = [];
    let room = this.settings.cacheMaxBytes;
    for await (const bytes of chunks) {
      room -= bytes.length;
      if (room < 0) kept = [];
      else kept.push(bytes.slice()); // it may be a view of a block that is mostly empty
      yield bytes;
    }
    if (room >= 0) copy(kept);
  }

  /** @param {string} name @param {Speech} speech @param {Uint8Array[]} kept */
  async put(name, speech, kept) {
    const { engine, voice, seed, seconds, warnings = [] } = speech.facts();
    const said = warnings.length ? [warnings.join("; ").slice(0, MOST_WARNINGS)] : [];
    const facts = JSON.stringify({ engine, voice, seed, seconds, warnings: said });
    try {
      await this.bucket.put(name, new Blob(kept), {
        httpMetadata: { contentType: speech.contentType },
        customMetadata: { facts },
      });
    } catch (error) {
      console.warn(`an answer was not kept: ${error instanceof Error && error.name}`);
    }
  }
}
