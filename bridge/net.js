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

export class NetworkError extends Error {
  /** @param {boolean} late */
  constructor(late) {
    super(late ? "no answer in time" : "the network failed");
    this.late = late;
  }
}
