/**
 * What can go wrong, as the errors that OpenAI's clients know.
 *
 * Every message is written for the caller and holds no secret. `retry` decides what an SDK does by
 * itself, since it repeats 429 and 5xx twice: a number of seconds becomes `Retry-After`, `false`
 * becomes `x-should-retry: false`, for what would fail, and cost, just the same again.
 */

/**
 * @typedef {object} Details
 * @property {string | null} [param] the request's field that is to blame
 * @property {string | null} [code]
 * @property {number | false} [retry]
 * @property {Record<string, string>} [headers]
 */

export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} type
   * @param {string} message
   * @param {Details} [details]
   */
  constructor(status, type, message, { param = null, code = null, retry, headers = {} } = {}) {
    super(message);
    this.status = status;
    this.body = { error: { message, type, param, code } };
    this.headers = { ...headers };
    if (retry === false) this.headers["x-should-retry"] = "false";
    if (typeof retry === "number")
      this.headers["Retry-After"] = String(Math.max(1, Math.ceil(retry)));
  }

  /** @returns {Response} */
  response() {
    return Response.json(this.body, { status: this.status, headers: this.headers });
  }
}

/**
 * A request that cannot be served as it stands.
 *
 * @param {string | null} param
 * @param {string} code
 * @param {string} message
 * @param {number} [status]
 */
export function invalid(param, code, message, status = 400) {
  return new ApiError(status, "invalid_request_error", message, { param, code });
}

/**
 * A failure behind the bridge.
 *
 * @param {number} status
 * @param {string | null} code
 * @param {string} message
 * @param {number | false} retry
 */
export function failed(status, code, message, retry) {
  return new ApiError(status, "server_error", message, { code, retry });
}

/** @param {unknown} error @returns {ApiError} */
export function asApiError(error) {
  if (error instanceof ApiError) return error;
  // A message of the runtime's may quote what the caller sent, so only the place is logged.
  const { name, stack = "" } = error instanceof Error ? error : new Error();
  const place = stack.split("\n").filter((line) => /^ +at /.test(line));
  console.error([`internal error: ${name}`, ...place].join("\n"));
  return failed(500, null, "The bridge failed; its log has the place.", false);
}
