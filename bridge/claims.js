/**
 * Which job serves which request, so that a request that comes again joins the job at work.
 *
 * The same request is: the same token and body with the same `Idempotency-Key`, or an SDK's own
 * retry (`x-stainless-retry-count`) within a minute of the attempt before. Isolates share no
 * memory, so the job's id lies in R2, where a put that depends on what was read decides who is
 * first. Without a bucket, or while it fails, every request has its own job.
 *
 * R2 takes one write a second of an object, so writes wait for each other and are tried again. What
 * nobody waits for is written in the background.
 */

import { sha256 } from "./digest.js";

/**
 * @typedef {object} Entry
 * @property {string} start names the start that made it; another start may come in its place
 * @property {string | null} job
 * @property {number} waiters
 * @property {number} at
 */
/** @typedef {(work: Promise<unknown>) => void} WaitUntil */

const RETRY_LIFE_MS = 60_000;
/** RunPod keeps a result of /runsync for a minute, and one of /run for half an hour. */
const KEY_LIFE_MS = 30 * 60_000;
/** An SDK's first retry comes after half a second to a second. */
const GRACE_MS = 2_000;
const LOOK_MS = 250;
const WRITE_PAUSE_MS = 1_100;
const ATTEMPTS = 3;

/**
 * @param {R2Bucket | null} bucket
 * @param {Request} request
 * @param {string} token
 * @param {string} body
 * @param {WaitUntil} waitUntil
 * @returns {Promise<Claim>}
 */
export async function claimFor(bucket, request, token, body, waitUntil) {
  const key = request.headers.get("Idempotency-Key") ?? "";
  const retried = Number(request.headers.get("x-stainless-retry-count")) > 0;
  // By itself: escaped into JSON, a body with a recording would be held once more.
  const content = (await sha256(body)).toHex();
  const digest = (await sha256(JSON.stringify([token, key, content]))).toHex();
  const life = key ? KEY_LIFE_MS : retried ? RETRY_LIFE_MS : 0;
  return new Claim(bucket, `idempotency/${digest}.json`, life, waitUntil);
}

export class Claim {
  /**
   * @param {R2Bucket | null} bucket
   * @param {string} name
   * @param {number} lifeMs 0 joins nothing
   * @param {WaitUntil} waitUntil
   */
  constructor(bucket, name, lifeMs, waitUntil) {
    this.bucket = bucket;
    this.name = name;
    this.lifeMs = lifeMs;
    this.waitUntil = waitUntil;
    /** Of the job that is started or joined. */
    this.start = "";
    /** @type {Promise<unknown>} */
    this.written = Promise.resolve();
  }

  /**
   * The id of the job to join, or null for whoever has to start it and `tell` its id. Waits for
   * an id that another request is about to tell, up to `patienceMs`.
   *
   * @param {number} patienceMs
   * @param {string | null} [gone] the id of a job that cannot be joined any more
   * @returns {Promise<string | null>}
   */
  async open(patienceMs, gone = null) {
    if (!this.lifeMs) {
      const fresh = this.begun();
      this.write((bucket) => bucket.put(this.name, JSON.stringify(fresh)));
      return null;
    }
    try {
      return await this.found(patienceMs, gone);
    } catch (error) {
      this.bucket = null;
      return forgotten(error);
    }
  }

  /** @returns {Entry} for a job that is about to be started */
  begun() {
    this.start = crypto.randomUUID();
    return { start: this.start, job: null, waiters: 1, at: Date.now() };
  }

  /** @param {number} patienceMs @param {string | null} gone */
  async found(patienceMs, gone) {
    if (!this.bucket) return null;
    for (const start = Date.now(); ; await scheduler.wait(LOOK_MS)) {
      const patient = Date.now() - start < patienceMs;
      const found = await this.read(this.bucket);
      const known = found && Date.now() - found.entry.at < this.lifeMs ? found.entry : null;
      if (known && !known.job && patient) continue;
      const joins = known?.job && known.job !== gone;
      const claimed = joins
        ? { ...known, waiters: known.waiters + 1, at: Date.now() }
        : this.begun();
      try {
        if (!(await this.replace(this.bucket, found?.etag, claimed))) continue;
        this.start = claimed.start;
        return claimed.job;
      } catch (error) {
        if (!patient) throw error;
      }
    }
  }

  /** @param {string} job */
  tell(job) {
    this.write((bucket) => this.change(bucket, (found) => ({ ...found, job })));
  }

  /** After a start that failed: whoever comes next has to start. */
  drop() {
    this.write(async (bucket) => {
      if (await this.mine(bucket)) await bucket.delete(this.name);
    });
  }

  /**
   * For a caller who has left. True where nobody else waits for the job, after the time that an
   * SDK takes to come again.
   *
   * @returns {Promise<boolean>}
   */
  async leave() {
    if (!this.bucket) return true;
    const less = (/** @type {Entry} */ found) => ({ ...found, waiters: found.waiters - 1 });
    this.write((bucket) => this.change(bucket, less));
    await this.written;
    await scheduler.wait(GRACE_MS);
    const found = await this.mine(this.bucket).catch(forgotten);
    if (found && found.entry.waiters > 0) return false;
    this.drop();
    return true;
  }

  /** @param {(bucket: R2Bucket) => Promise<unknown>} work */
  write(work) {
    const { bucket } = this;
    if (!bucket) return;
    const persistently = async () => {
      for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
        try {
          await work(bucket);
          return;
        } catch (error) {
          if (attempt === ATTEMPTS) forgotten(error);
          else await scheduler.wait(WRITE_PAUSE_MS);
        }
      }
    };
    this.written = this.written.then(persistently);
    this.waitUntil(this.written);
  }

  /** @param {R2Bucket} bucket @param {(entry: Entry) => Entry} edit */
  async change(bucket, edit) {
    for (;;) {
      const found = await this.mine(bucket);
      if (!found) return;
      const edited = { ...edit(found.entry), at: Date.now() };
      if (await this.replace(bucket, found.etag, edited)) return;
    }
  }

  /**
   * What was read, unless the same request has been started anew since: that is another's.
   *
   * @param {R2Bucket} bucket
   */
  async mine(bucket) {
    const found = await this.read(bucket);
    return found?.entry.start === this.start ? found : null;
  }

  /** @param {R2Bucket} bucket */
  async read(bucket) {
    const object = await bucket.get(this.name);
    if (!object) return null;
    return { etag: object.etag, entry: /** @type {Entry} */ (await object.json()) };
  }

  /** @param {R2Bucket} bucket @param {string | undefined} etag of what must be there @param {Entry} entry */
  async replace(bucket, etag, entry) {
    const onlyIf = etag ? { etagMatches: etag } : { etagDoesNotMatch: "*" };
    return (await bucket.put(this.name, JSON.stringify(entry), { onlyIf })) !== null;
  }
}

/** A claim is worth less than the speech itself. @param {unknown} error */
function forgotten(error) {
  console.warn(`R2 fails, so a job cannot be joined: ${error instanceof Error && error.name}`);
  return null;
}

/** Of a request that no other can join. */
export const NO_CLAIM = new Claim(null, "", 0, () => {});
