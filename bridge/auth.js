/**
 * Who may call. Tokens are compared by their digests, every one of them, so that the time taken
 * tells nothing about how much of a guess was right.
 */

import { sha256 } from "./digest.js";
import { ApiError } from "./errors.js";

/** Where clients of other speech services, and of Azure's OpenAI, send their key. */
const KEY_HEADERS = ["api-key", "xi-api-key"];

/** @param {Headers} headers */
function keyOf(headers) {
  const bearer = /^(?:Bearer|Token) +(\S+) *$/i.exec(headers.get("Authorization") ?? "")?.[1];
  const others = KEY_HEADERS.map((name) => headers.get(name)?.trim());
  return bearer ?? others.find((key) => key && !/\s/.test(key)) ?? "";
}

/**
 * The token that came along, "" where none is asked for; null where it is none of them.
 *
 * @param {Request} request
 * @param {string[]} tokens
 * @returns {Promise<string | null>}
 */
export async function tokenIn(request, tokens) {
  if (!tokens.length) return "";
  const given = keyOf(request.headers);
  const digest = await sha256(given);
  let known = false;
  for (const token of tokens) {
    known = crypto.subtle.timingSafeEqual(await sha256(token), digest) || known;
  }
  return known ? given : null;
}

/** The error for a request without one of the tokens. @param {Request} request */
export function unauthorized(request) {
  return new ApiError(
    401,
    "invalid_request_error",
    keyOf(request.headers)
      ? "Incorrect API key provided."
      : "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY'.",
    { code: "invalid_api_key", headers: { "WWW-Authenticate": "Bearer" } },
  );
}
