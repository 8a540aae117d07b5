/** Requests of the bridge's own. */

/**
 * Like fetch, but the answer has to begin within `timeoutMs`; its body may take any time. A network
 * that fails and a time that is up are `NetworkError`s.
 *
 * @param {string} url
 * @param {RequestInit & { signal?: AbortSignal }} init
 * @param {number} timeoutMs
 * @returns {Promise<Response>}
 */
export async function fetchWithin(url, init, timeoutMs) {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), timeoutMs);
  const signal = init.signal ? AbortSignal.any([init.signal, late.signal]) : late.signal;
  try {
    return await fetch(url, { ...init, signal });
  } catch {
    // The runtime's message may hold the address, and a link to audio is a secret.
    throw new NetworkError(late.signal.aborted);
  } finally {
    clearTimeout(timer);
  }
}

/** Loopback, private, link-local, shared, multicast and reserved. */
const PRIVATE_IPV4 =
  /^(0|10|127|169\.254|172\.(1[6-9]|2\d|3[01])|192\.168|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])|22[4-9]|2[3-5]\d)\./;
const PRIVATE_NAME = /(^|\.)(localhost|local|internal|lan|home\.arpa)$/;

/**
 * Whether an address is one of the public internet, as far as it can be told without asking DNS,
 * which a Worker cannot.
 *
 * @param {string} url
 */
export function isPublic(url) {
  if (!/^https?:/i.test(url) || !URL.canParse(url)) return false;
  const host = new URL(url).hostname.replace(/\.$/, "");
  if (host.startsWith("[")) return /^\[[23]/.test(host); // 2000::/3
  // The parser has made four numbers of every way to write them.
  if (/^[\d.]+$/.test(host)) return !PRIVATE_IPV4.test(host);
  return host.includes(".") && !PRIVATE_NAME.test(host);
}

export class NetworkError extends Error {
  /** @param {boolean} late */
  constructor(late) {
    super(late ? "no answer in time" : "the network failed");
    this.late = late;
  }
}
