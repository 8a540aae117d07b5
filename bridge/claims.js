/**
 * Which job serves which request, so that a request that comes again joins the job at work.
 *
 * The same request is: the same token and body with the same `Idempotency-Key`, or an SDK's own
 * retry (`x-stainless-retry-count`) within a minute of the attempt before. Isolates share no
 * memory, so the job's id lies in R2, where a put that depends on what was read decides who is
 * first. Without a bucket, or while it fails, every request has its own job.
 */

/** @typedef {{ job: string | null, waiters: number, at: number }} Entry */

const RETRY_LIFE_MS = 60_000;
/** RunPod keeps a result for half an hour at most. */
const KEY_LIFE_MS = 30 * 60_000;
/** An SDK's first retry comes after half a second to a second. */
const GRACE_MS = 2_000;
const LOOK_MS = 250;

/**
 * @param {R2Bucket | null} bucket
 * @param {Request} request
 * @param {string} token
 * @param {string} body
 * @returns {Promise<Claim>}
 */
export async function claimFor(bucket, request, token, body) {
  const key = request.headers.get("Idempotency-Key") ?? "";
  const retried = Number(request.headers.get("x-stainless-retry-count")) > 0;
  const digest = await sha256(JSON.stringify([token, key, body]));
  const life = key ? KEY_LIFE_MS : retried ? RETRY_LIFE_MS : 0;
  return new Claim(bucket, `idempotency/${digest}.json`, life);
}

export class Claim {
  /** @param {R2Bucket | null} bucket @param {string} name @param {number} lifeMs 0 joins nothing */
  constructor(bucket, name, lifeMs) {
    this.bucket = bucket;
    this.name = name;
    this.lifeMs = lifeMs;
  }

  /**
   * The id of the job to join, or null for whoever has to start it and `tell` its id. Waits for
   * an id that another request is about to tell, up to `patienceMs`.
   *
   * @param {number} patienceMs
   * @returns {Promise<string | null>}
   */
  async open(patienceMs) {
    try {
      return await this.found(patienceMs);
    } catch (error) {
      this.bucket = null;
      return forgotten(error);
    }
  }

  /** @param {number} patienceMs */
  async found(patienceMs) {
    if (!this.bucket) return null;
    if (!this.lifeMs) {
      await this.bucket.put(this.name, entry(null, 1));
      return null;
    }
    for (const start = Date.now(); ; await scheduler.wait(LOOK_MS)) {
      const found = await this.read();
      const fresh = found !== null && Date.now() - found.entry.at < this.lifeMs;
      if (found && fresh && !found.entry.job && Date.now() - start < patienceMs) continue;
      const job = found && fresh ? found.entry.job : null;
      if (await this.replace(found?.etag, entry(job, found && job ? found.entry.waiters + 1 : 1)))
        return job;
    }
  }

  /** @param {string} job */
  async tell(job) {
    await this.change((found) => ({ ...found, job })).catch(forgotten);
  }

  /** After a start that failed: whoever comes next has to start. */
  async drop() {
    await this.bucket?.delete(this.name).catch(forgotten);
  }

  /**
   * For a caller who has left. True where nobody else waits for the job, after the time that an
   * SDK takes to come again.
   *
   * @returns {Promise<boolean>}
   */
  async leave() {
    if (!this.bucket) return true;
    await this.change((found) => ({ ...found, waiters: found.waiters - 1 })).catch(forgotten);
    await scheduler.wait(GRACE_MS);
    const found = await this.read().catch(forgotten);
    if (found && found.entry.waiters > 0) return false;
    await this.drop();
    return true;
  }

  /** @param {(entry: Entry) => Entry} edit */
  async change(edit) {
    if (!this.bucket) return;
    for (;;) {
      const found = await this.read();
      if (!found) return;
      const { job, waiters } = edit(found.entry);
      if (await this.replace(found.etag, entry(job, waiters))) return;
    }
  }

  async read() {
    const object = await this.bucket?.get(this.name);
    if (!object) return null;
    return { etag: object.etag, entry: /** @type {Entry} */ (await object.json()) };
  }

  /** @param {string | undefined} etag what must still be there @param {string} text */
  async replace(etag, text) {
    const onlyIf = etag ? { etagMatches: etag } : { etagDoesNotMatch: "*" };
    return (await this.bucket?.put(this.name, text, { onlyIf })) !== null;
  }
}

/** A claim is worth less than the speech itself. @param {unknown} error */
function forgotten(error) {
  console.warn(`R2 fails, so a job cannot be joined: ${error instanceof Error && error.name}`);
  return null;
}

/** Of a request that no other can join. */
export const NO_CLAIM = new Claim(null, "", 0);

/** @param {string | null} job @param {number} waiters */
function entry(job, waiters) {
  return JSON.stringify({ job, waiters, at: Date.now() });
}

/** @param {string} text */
export async function sha256(text) {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
