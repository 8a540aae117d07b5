/** The audio behind a link, which is where a worker with S3 leaves it. */

import { failed } from "./errors.js";
import { fetchWithin, isPublic, NetworkError } from "./net.js";

/** @import { Settings } from "./settings.js" */

const ATTEMPTS = 3;
const PAUSE_MS = 200;

/**
 * Asks again where the store fails for the moment, and where it says that the audio is elsewhere.
 * Never asks a private address, unless RunPod itself has one. Raises a 502, without the link: it is
 * a secret.
 *
 * @param {string} url
 * @param {Settings} settings
 * @returns {Promise<{ body: ReadableStream<Uint8Array>, length: number | null }>}
 */
export async function follow(url, { idleTimeoutMs, runpodUrl }) {
  let problem = "";
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    if (attempt > 1) await scheduler.wait(PAUSE_MS * (attempt - 1));
    if (isPublic(runpodUrl) && !isPublic(url)) {
      problem = "leads to no public address";
      break;
    }
    try {
      const response = await fetchWithin(url, { redirect: "manual" }, idleTimeoutMs);
      if (response.ok && response.body) {
        await refuseText(response);
        return { body: response.body, length: lengthOf(response) };
      }
      await response.body?.cancel();
      problem = `answers with ${response.status}`;
      const elsewhere = response.status < 400 && response.headers.get("Location");
      if (elsewhere && URL.canParse(elsewhere, url)) url = new URL(elsewhere, url).href;
      else if (response.status < 500) break;
    } catch (error) {
      if (!(error instanceof NetworkError)) throw error;
      problem = "cannot be followed";
    }
  }
  throw failed(502, "upstream_error", `The link to the audio ${problem}.`, false);
}

/** Raises a 502 for an answer that is text by its type: it could pass for pcm. @param {Response} response */
export async function refuseText(response) {
  const type = response.headers.get("Content-Type") ?? "";
  if (!/^(text\/|application\/(xhtml\+xml|json|xml)\b)/i.test(type)) return;
  await response.body?.cancel();
  throw failed(502, "upstream_error", "What came is text, not audio.", false);
}

/** The length of a body, unless the runtime unpacks it on the way. @param {Response} response */
export function lengthOf(response) {
  const length = response.headers.get("Content-Length");
  return length && !response.headers.has("Content-Encoding") ? Number(length) : null;
}
