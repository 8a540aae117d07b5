/**
 * Recordings that become text. A server that speaks OpenAI's protocol gets the form as it came; for
 * a queue it becomes a job, and the job's answer one of OpenAI's forms.
 */

import { EVENTS } from "./audio.js";
import { NO_CLAIM } from "./claims.js";
import { ApiError, failed, invalid } from "./errors.js";
import { Job } from "./job.js";
import { fetchWithin, NetworkError } from "./net.js";
import { outputOf } from "./outcome.js";
import { RunPod } from "./runpod.js";
import { event } from "./sse.js";

/** @import { Settings } from "./settings.js" */
/** @import { Visit } from "./routes.js" */

export const TRANSCRIPTIONS = "/v1/audio/transcriptions";
export const TRANSLATIONS = "/v1/audio/translations";
export const HEARING_NAMES = [
  "whisper-1",
  "gpt-transcribe",
  "gpt-4o-transcribe",
  "gpt-4o-mini-transcribe",
  "gpt-4o-mini-transcribe-2025-12-15",
  "gpt-4o-transcribe-diarize",
];

const FORMATS = ["json", "text", "srt", "verbose_json", "vtt", "diarized_json"];
const STREAMED = ["json", "text", "diarized_json"];
/** RunPod takes 20 MB of JSON, and base64 adds a third. */
const MOST_JOB_BYTES = 14 * 2 ** 20;
const TOKENS_A_SECOND = 10;
const BYTES_A_TOKEN = 4;
/** OpenAI's names of the worker's fields. */
const WORDS = new Map([
  ["audio_base64", "file"],
  ["known_speakers", "known_speaker_references"],
]);

/**
 * The server's own answer, byte for byte; its errors are OpenAI's already.
 *
 * @param {Settings} settings @param {Visit} visit @param {string} path
 * @param {(response: Response) => Promise<ApiError>} refusal
 */
export async function passOn(settings, { request, id }, path, refusal) {
  const headers = new Headers({ "X-Request-ID": id });
  for (const name of ["Content-Type", "Content-Length"]) {
    const value = request.headers.get(name);
    if (value) headers.set(name, value);
  }
  if (settings.runpodKey) headers.set("Authorization", `Bearer ${settings.runpodKey}`);
  const init = { method: "POST", headers, body: request.body, signal: request.signal };
  let response;
  try {
    response = await fetchWithin(settings.speechUrl + path, init, settings.jobTimeoutMs);
  } catch (error) {
    if (!(error instanceof NetworkError)) throw error;
    if (error.late) throw failed(504, "timeout", "The server did not answer in time.", false);
    throw failed(502, "upstream_error", "The server cannot be reached.", 2);
  }
  if (!response.ok) throw await refusal(response);
  const answered = new Headers();
  for (const name of ["Content-Type", "Cache-Control", "X-Speech-Ignored"]) {
    const value = response.headers.get(name);
    if (value) answered.set(name, value);
  }
  return new Response(response.body, { headers: answered });
}

/** By a job of a queue endpoint. @param {Settings} settings @param {Visit} visit @param {string} path */
export async function byJob(settings, { request, id, waitUntil }, path) {
  const form = await formOf(request);
  const translate = path === TRANSLATIONS;
  const asked = await askOf(form, translate);
  const call = { id, signal: request.signal, waitUntil, claim: NO_CLAIM };
  const job = new Job(new RunPod(settings.runpodUrl, settings.runpodKey), settings, call);
  const input = { task: "transcribe", ...asked.input, request_id: id };
  const answer = await job.answer(input).catch((error) => {
    throw error instanceof ApiError ? inOpenAIsWords(error) : error;
  });
  const output = outputOf(answer.state);
  if (Array.isArray(output.segments)) return answered(output, asked);
  throw failed(502, "upstream_error", "The job ended without a transcript.", false);
}

/** @param {Request} request @returns {Promise<FormData>} */
async function formOf(request) {
  const type = request.headers.get("Content-Type") ?? "";
  if (!/^multipart\/form-data/i.test(type)) {
    const problem = "The Content-Type must be multipart/form-data.";
    throw invalid(null, "unsupported_content_type", problem, 415);
  }
  const body = await bytesWithin(request, MOST_JOB_BYTES);
  try {
    return await new Response(body, { headers: { "Content-Type": type } }).formData();
  } catch {
    throw invalid(null, "invalid_value", "The form could not be read.");
  }
}

/** @param {Request} request @param {number} most */
async function bytesWithin(request, most) {
  let count = Number(request.headers.get("Content-Length")) || 0;
  const parts = [];
  if (count <= most) {
    count = 0;
    for await (const bytes of /** @type {AsyncIterable<Uint8Array>} */ (request.body ?? [])) {
      count += bytes.length;
      if (count > most) break;
      parts.push(bytes);
    }
  }
  if (count <= most) return new Blob(parts);
  const problem =
    `The form has more than ${most} bytes, which no job of a queue carries. Send a compressed ` +
    "file, or call a server: see SPEECH_URL.";
  throw invalid("file", "request_too_large", problem, 413);
}

/**
 * @typedef {object} Heard what a form asks for
 * @property {Record<string, unknown>} input of the job
 * @property {string} format
 * @property {boolean} stream
 * @property {string[]} granularities
 * @property {boolean} translate
 */

/** @param {FormData} form @param {boolean} translate @returns {Promise<Heard>} */
async function askOf(form, translate) {
  const file = /** @type {unknown} */ (form.get("file"));
  if (file === null) {
    throw invalid("file", "missing_required_parameter", "Missing required parameter: 'file'.");
  }
  if (!(file instanceof Blob)) {
    throw invalid("file", "invalid_type", "file: is a text, and should be a file.");
  }
  const format = String(form.get("response_format") || "json");
  const formats = translate ? FORMATS.slice(0, -1) : FORMATS;
  if (!formats.includes(format)) {
    const listed = formats.map((each) => `'${each}'`).join(", ");
    const problem = `Invalid value: '${format.slice(0, 50)}'. Supported values are: ${listed}.`;
    throw invalid("response_format", "unsupported_format", problem);
  }
  const granularities = listOf(form, "timestamp_granularities");
  const names = listOf(form, "known_speaker_names");
  const references = listOf(form, "known_speaker_references");
  if (names.length !== references.length) {
    const problem = `${references.length} recordings came for ${names.length} names.`;
    throw invalid("known_speaker_references", "invalid_value", problem);
  }
  const words = format === "verbose_json" && granularities.includes("word");
  const keywords = listOf(form, "keywords");
  const languages = listOf(form, "languages");
  const model = String(form.get("model") ?? "");
  return {
    format,
    granularities: granularities.length ? granularities : ["segment"],
    stream: form.get("stream") === "true" && STREAMED.includes(format),
    translate,
    input: {
      audio_base64: base64(new Uint8Array(await file.arrayBuffer())),
      ...(model && !HEARING_NAMES.includes(model.toLowerCase()) && { model }),
      ...textsOf(form, ["language", "prompt", "temperature"]),
      ...(!form.get("language") && languages.length === 1 && { language: languages[0] }),
      ...(keywords.length && { keywords }),
      ...(names.length && {
        known_speakers: Object.fromEntries(names.map((name, at) => [name, references[at]])),
      }),
      ...(words && { words }),
      ...(format === "diarized_json" && { speakers: true }),
      ...(translate && { translate }),
      transcription: ["srt", "vtt"].includes(format) ? format : "plain_text",
    },
  };
}

/** @param {FormData} form @param {string} name */
function listOf(form, name) {
  return [...form.getAll(`${name}[]`), ...form.getAll(name)].map(String);
}

/** @param {FormData} form @param {string[]} names */
function textsOf(form, names) {
  const given = names.map((name) => [name, form.get(name)]);
  return Object.fromEntries(given.filter(([, value]) => value !== null && value !== ""));
}

/** @param {Uint8Array} bytes @returns {string} */
function base64(bytes) {
  return /** @type {any} */ (bytes).toBase64();
}

/** @param {Record<string, any>} output of the job @param {Heard} asked */
function answered(output, asked) {
  const text = String((asked.translate ? output.translation : output.transcription) ?? "");
  if (asked.stream) {
    const headers = { "Content-Type": EVENTS, "Cache-Control": "no-store" };
    return new Response(eventsOf(output, text, asked), { headers });
  }
  if (["text", "srt", "vtt"].includes(asked.format)) {
    const headers = { "Content-Type": "text/plain; charset=utf-8" };
    return new Response(asked.format === "text" ? `${text}\n` : text, { headers });
  }
  const seconds = Number(output.duration_sec) || 0;
  return Response.json({
    ...(asked.format !== "json" && shapeOf(output, asked)),
    text,
    usage: { type: "duration", seconds: Math.ceil(seconds) },
  });
}

/** @param {Record<string, any>} output @param {Heard} asked */
function shapeOf(output, { format, granularities, translate }) {
  const duration = output.duration_sec;
  if (format === "diarized_json") {
    return { task: "transcribe", duration, segments: output.segments.map(spoken) };
  }
  return {
    task: translate ? "translate" : "transcribe",
    language: translate ? "english" : output.language,
    duration,
    ...(granularities.includes("segment") && { segments: output.segments }),
    ...(granularities.includes("word") && { words: output.word_timestamps }),
  };
}

/** @param {Record<string, any>} segment @param {number} number */
function spoken({ start, end, speaker, text }, number) {
  const id = `seg_${number}`;
  return { type: "transcript.text.segment", id, start, end, speaker: speaker ?? "A", text };
}

/** The events of a stream, all at once. @param {Record<string, any>} output @param {string} text @param {Heard} asked */
function eventsOf(output, text, { format }) {
  const segments = format === "diarized_json" ? output.segments.map(spoken) : [];
  const heard = Math.ceil(output.duration_sec * TOKENS_A_SECOND);
  const written = Math.ceil(new TextEncoder().encode(text).length / BYTES_A_TOKEN);
  const usage = {
    type: "tokens",
    input_tokens: heard,
    output_tokens: written,
    total_tokens: heard + written,
  };
  return [
    event({ type: "transcript.text.delta", delta: text }),
    ...segments.map(event),
    event({ type: "transcript.text.done", text, usage }),
    "data: [DONE]\r\n\r\n",
  ].join("");
}

/** The worker's error with OpenAI's names of the fields. @param {ApiError} error */
function inOpenAIsWords(error) {
  const { param, message } = error.body.error;
  const word = WORDS.get(param ?? "");
  if (word) {
    error.body.error.param = word;
    error.body.error.message = message.replace(`${param}:`, `${word}:`);
  }
  return error;
}
