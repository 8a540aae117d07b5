/**
 * Which job serves which request, so that a request that comes again joins the job at work.
 *
 * The same request is: the same token and body with the same `Idempotency-Key`, or an SDK's own
 * retry (`x-stainless-retry-count`) within a minute of the attempt before. Isolates share no
 * memory, so single-flight needs one place for each request: a Durable Object, which is named by
 * the request's hash and does one thing at a time. Without the binding SINGLE_FLIGHT, or while it
 * fails, every request has its own job.
 */

import { DurableObject } from "cloudflare:workers";
import { sha256 } from "./digest.js";

/**
 * @typedef {object} Entry
 * @property {string} start names the start that made it; another start may come in its place
 * @property {string | null} job
 * @property {number} waiters
 * @property {number} at
 */
/** @typedef {(work: Promise<unknown>) => void} WaitUntil */
/** @typedef {DurableObjectNamespace<SingleFlight>} Namespace */

const RETRY_LIFE_MS = 60_000;
/** RunPod keeps a result of /runsync for a minute, and one of /run for half an hour. */
const KEY_LIFE_MS = 30 * 60_000;
/** An SDK's first retry comes after half a second to a second. */
const GRACE_MS = 2_000;
const ENTRY = "entry";

/**
 * The one place of one request. Holds neither its text nor its token. Its entry is changed in one
 * step, without a wait between reading and writing: calls that wake together would overwrite each
 * other.
 */
export class SingleFlight extends DurableObject {
  /** @param {DurableObjectState} ctx @param {unknown} env */
  constructor(ctx, env) {
    super(ctx, env);
    /** @type {Entry | undefined} */
    this.entry = undefined;
    /** @type {(() => void)[]} those who wait for a change */
    this.waiting = [];
    ctx.blockConcurrencyWhile(async () => {
      this.entry = await ctx.storage.get(ENTRY);
    });
  }

  /**
   * The entry of the job to join, or one without a job for whoever has to start it and `tell` its
   * id. Waits for an id that another request is about to tell, up to `patienceMs`.
   *
   * @param {string} start of the job, if this request starts it
   * @param {number} lifeMs 0 joins nothing
   * @param {number} patienceMs
   * @param {string | null} gone the id of a job that cannot be joined any more
   * @returns {Promise<Entry>}
   */
  async open(start, lifeMs, patienceMs, gone) {
    const until = Date.now() + patienceMs;
    while (this.known(lifeMs)?.job === null && Date.now() < until) {
      await this.change(until - Date.now());
    }
    const known = this.known(lifeMs);
    return known?.job && known.job !== gone
      ? this.put({ ...known, waiters: known.waiters + 1 })
      : this.put({ start, job: null, waiters: 1, at: 0 });
  }

  /** @param {string} start @param {string} job */
  async tell(start, job) {
    if (this.entry?.start === start) this.put({ ...this.entry, job });
  }

  /** After a start that failed: whoever comes next has to start. @param {string} start */
  async drop(start) {
    if (this.entry?.start === start) await this.alarm();
  }

  /**
   * For a caller who has left: whether nobody else waits, after the time that an SDK takes to come
   * again. The job is then forgotten.
   *
   * @param {string} start
   */
  async leave(start) {
    if (this.entry?.start === start) this.put({ ...this.entry, waiters: this.entry.waiters - 1 });
    await scheduler.wait(GRACE_MS);
    if (this.entry?.start === start && this.entry.waiters > 0) return false;
    await this.drop(start);
    return true;
  }

  /** Forgets what is too old to be joined. @override */
  async alarm() {
    this.entry = undefined;
    this.changed();
    await this.ctx.storage.deleteAlarm();
    await this.ctx.storage.deleteAll();
  }

  /** @param {number} lifeMs */
  known(lifeMs) {
    return this.entry && Date.now() - this.entry.at < lifeMs ? this.entry : undefined;
  }

  /** No answer leaves before it is stored, by the output gate. @param {Entry} entry */
  put(entry) {
    this.entry = { ...entry, at: Date.now() };
    this.ctx.storage.put(ENTRY, this.entry);
    this.ctx.storage.setAlarm(this.entry.at + KEY_LIFE_MS);
    this.changed();
    return this.entry;
  }

  changed() {
    for (const go of this.waiting.splice(0)) go();
  }

  /** @param {number} mostMs */
  async change(mostMs) {
    const { promise, resolve } = Promise.withResolvers();
    this.waiting.push(() => resolve(undefined));
    await Promise.race([promise, scheduler.wait(mostMs)]);
  }
}

/**
 * @param {Namespace | null} namespace
 * @param {Request} request
 * @param {string} token
 * @param {string} body
 * @param {WaitUntil} waitUntil
 * @returns {Promise<Claim>}
 */
export async function claimFor(namespace, request, token, body, waitUntil) {
  const key = request.headers.get("Idempotency-Key") ?? "";
  const retried = Number(request.headers.get("x-stainless-retry-count")) > 0;
  // By itself: escaped into JSON, a body with a recording would be held once more.
  const content = (await sha256(body)).toHex();
  const digest = (await sha256(JSON.stringify([token, key, content]))).toHex();
  const life = key ? KEY_LIFE_MS : retried ? RETRY_LIFE_MS : 0;
  const flight = namespace?.get(namespace.idFromName(digest)) ?? null;
  return new Claim(flight, life, waitUntil);
}

/** What one request knows of its place. */
export class Claim {
  /**
   * @param {DurableObjectStub<SingleFlight> | null} flight
   * @param {number} lifeMs 0 joins nothing
   * @param {WaitUntil} waitUntil
   */
  constructor(flight, lifeMs, waitUntil) {
    this.flight = flight;
    this.lifeMs = lifeMs;
    this.waitUntil = waitUntil;
    /** Of the job that is started or joined. */
    this.start = "";
    /** @type {Promise<unknown>} calls that nobody waits for, one after the other */
    this.told = Promise.resolve();
  }

  /**
   * The id of the job to join, or null for whoever has to start it and `tell` its id.
   *
   * @param {number} patienceMs
   * @param {string | null} [gone]
   * @returns {Promise<string | null>}
   */
  async open(patienceMs, gone = null) {
    this.start = crypto.randomUUID();
    if (!this.lifeMs) {
      this.later((flight) => flight.open(this.start, 0, 0, null));
      return null;
    }
    try {
      const entry = await this.flight?.open(this.start, this.lifeMs, patienceMs, gone);
      this.start = entry?.start ?? this.start;
      return entry?.job ?? null;
    } catch (error) {
      this.flight = null;
      forgotten(error);
      return null;
    }
  }

  /** @param {string} job */
  tell(job) {
    this.later((flight) => flight.tell(this.start, job));
  }

  drop() {
    this.later((flight) => flight.drop(this.start));
  }

  /** Whether nobody else waits for the job of a caller who has left. @returns {Promise<boolean>} */
  async leave() {
    if (!this.flight) return true;
    await this.told;
    try {
      return await this.flight.leave(this.start);
    } catch (error) {
      forgotten(error);
      return true;
    }
  }

  /** @param {(flight: DurableObjectStub<SingleFlight>) => Promise<unknown>} call */
  later(call) {
    const { flight } = this;
    if (!flight) return;
    this.told = this.told.then(() => call(flight)).catch(forgotten);
    this.waitUntil(this.told);
  }
}

/** A claim is worth less than the speech itself. @param {unknown} error */
function forgotten(error) {
  console.warn(`a job cannot be joined: ${error instanceof Error && error.name}`);
}

/** Of a request that no other can join. */
export const NO_CLAIM = new Claim(null, 0, () => {});
