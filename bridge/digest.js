/** SHA-256, which names what is kept and compares what is secret. */

/** @param {string} text @returns {Promise<Uint8Array>} 32 bytes */
export async function sha256(text) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
}
