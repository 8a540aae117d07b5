/** Calls to the server that the page came from. */

export class Refused extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** @param {string} key @param {string} path @param {RequestInit} [init] */
export async function call(key, path, init = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(path, { ...init, headers });
  const body = await response.json();
  if (!response.ok) throw new Refused(response.status, body.error.message);
  return body;
}

/** A socket for speech; the key goes as a subprotocol, since browsers send no headers with it. */
export function openSocket(key) {
  const url = new URL("v1/audio/speech/stream", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url, key ? ["speech", `key.${key}`] : ["speech"]);
  socket.binaryType = "arraybuffer";
  return socket;
}

/** The same speech as a command for a shell. */
export function curl(ask, withKey) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const { model, voice, speed, text: input } = ask;
  const body = JSON.stringify({ model, voice, input, speed });
  const key = withKey ? ' -H "Authorization: Bearer $API_KEY"' : "";
  const url = new URL("v1/audio/speech", location.href);
  return `curl ${quoted(url.href)}${key} -H 'Content-Type: application/json' -d ${quoted(body)} -o speech.mp3`;
}
