/**
 * The queue backend: a request becomes a job of a RunPod endpoint, whose audio comes with the
 * answer, behind a link, or (RUNPOD_STREAM) piece by piece.
 */

import { CONTENT_TYPES, FORMATS } from "./audio.js";
import { NO_CLAIM } from "./claims.js";
import { failed } from "./errors.js";
import { Job } from "./job.js";
import { follow } from "./link.js";
import { NAMES } from "./models.js";
import { factsOf, outputOf } from "./outcome.js";
import { piecesOf } from "./pieces.js";
import { RunPod } from "./runpod.js";
import { checked } from "./speech.js";
import { bytesOf } from "./streams.js";
import { byJob, HEARING_NAMES } from "./transcription.js";

/** @import { Answer } from "./answer.js" */
/** @import { Format } from "./audio.js" */
/** @import { Ask } from "./contract.js" */
/** @import { Facts } from "./facts.js" */
/** @import { Call } from "./job.js" */
/** @import { Visit } from "./routes.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Speech } from "./speech.js" */

export class QueueBackend {
  /** Whether it makes server-sent events by itself. */
  speaksSse = false;
  /** Whether it knows by itself which models there are. */
  anyModel = false;

  /** @param {Settings} settings */
  constructor(settings) {
    this.settings = settings;
    this.runpod = new RunPod(settings.runpodUrl, settings.runpodKey);
  }

  /**
   * @param {Ask} ask whose voices are the worker's
   * @param {Call} call
   * @returns {Promise<Speech>}
   */
  async speak(ask, call) {
    // A FLAC of unknown length is opened by few.
    const stream = this.settings.stream && ask.format !== "flac";
    // No other request can join a stream, since RunPod shows each piece once.
    const claim = stream ? NO_CLAIM : call.claim;
    const job = new Job(this.runpod, this.settings, { ...call, claim });
    const input = inputOf(ask, call.id);
    if (stream) return await this.streamed(job, input, ask.format);
    // The bridge's callers do not reach the volume, where the worker keeps what it cannot send.
    return await this.delivered(await job.answer({ ...input, must_fit: true }), ask.format);
  }

  /**
   * How a text would be read, which the worker says at once.
   *
   * @param {Ask} ask
   * @param {Call} call
   */
  async plan(ask, call) {
    const job = new Job(this.runpod, this.settings, call);
    return outputOf((await job.answer(inputOf(ask, call.id))).state);
  }

  /** What was said in a recording. @param {Visit} visit @param {string} path */
  async hear(visit, path) {
    return await byJob(this.settings, visit, path);
  }

  async models() {
    return [...NAMES, ...HEARING_NAMES];
  }

  /** The voices that the worker has beside the map's are known to the worker alone. */
  async voices() {
    return [];
  }

  /** So is their state. Callers upload none through a queue; the operator changes the map. */
  async voiceState() {
    return [];
  }

  /** @param {Answer} answer @param {Format} format @returns {Promise<Speech>} */
  async delivered({ state, audio }, format) {
    const { format: made, audio_url: url } = outputOf(state);
    const facts = factsOf(state);
    const kind = FORMATS.find((each) => each === made) ?? format;
    if (!audio.length && typeof url !== "string") {
      throw failed(502, "upstream_error", "The job ended without audio.", false);
    }
    const { idleTimeoutMs } = this.settings;
    const file = audio.length ? null : await follow(url, this.settings);
    const length = file ? file.length : audio.reduce((sum, bytes) => sum + bytes.length, 0);
    const source = file ? bytesOf(file.body, idleTimeoutMs) : each(audio);
    const chunks = await checked(source, kind);
    const unsure = length === null; // a link's body then ends where the connection does
    return { chunks, length, unsure, contentType: CONTENT_TYPES[kind], facts: () => facts };
  }

  /** @param {Job} job @param {object} input @param {Format} format @returns {Promise<Speech>} */
  async streamed(job, input, format) {
    const id = await job.begin({ ...input, stream: true });
    /** @type {Facts} */
    let facts = { job: id };
    const pieces = piecesOf(job, id, (known) => {
      facts = known;
    });
    const chunks = await checked(pieces, format);
    return { chunks, length: null, contentType: CONTENT_TYPES[format], facts: () => facts };
  }
}

/** By OpenAI's names, which the worker's errors then use, too. @param {Ask} ask @param {string} id */
function inputOf(ask, id) {
  const { text: input, voice, format: response_format, speed, extras, model } = ask;
  return {
    ...extras,
    ...(model && { model }),
    input,
    voice,
    response_format,
    speed,
    request_id: id,
  };
}

/** @param {Uint8Array[]} chunks */
async function* each(chunks) {
  yield* chunks;
}
