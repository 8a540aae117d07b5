/**
 * A job's state as RunPod tells it, with its audio decoded on the way in.
 *
 * The JSON is read as it comes: the text of `audio_base64` and of `audio_chunk`s goes through a
 * base64 decoder and is never held, all else is kept and parsed in the end. So an answer costs the
 * bytes of its audio. They are held until the JSON has ended, because only then are they known to be
 * whole, and their length and the facts beside them can go into the headers. RunPod lets an answer
 * have at most 20 MB.
 */

import { bytesOf } from "./streams.js";

/** @typedef {Record<string, any>} State what /runsync and /status answer, without the audio */
/** @typedef {{ state: State, audio: Uint8Array[] }} Answer */

const KEYS = ["audio_base64", "audio_chunk"];
const LONGEST_KEY = 12;
const MOST_BYTES = 32 * 2 ** 20;
const MOST_OTHER_BYTES = 4 * 2 ** 20;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const SLASH = 0x2f;
const COLON = 0x3a;

export class BadAnswer extends Error {}

/**
 * Raises `BadAnswer` for what is no such JSON, and whatever the stream raises.
 *
 * @param {ReadableStream<Uint8Array> | null} body
 * @returns {Promise<Answer>}
 */
export async function readAnswer(body) {
  const reader = new AnswerReader();
  let count = 0;
  for await (const bytes of bytesOf(body)) {
    count += bytes.length;
    if (count > MOST_BYTES) throw new BadAnswer(`more than ${MOST_BYTES} bytes`);
    reader.feed(bytes);
  }
  return reader.end();
}

export class AnswerReader {
  constructor() {
    this.decoder = new Base64Decoder();
    /** @type {Uint8Array[]} */
    this.audio = [];
    this.json = "";
    this.text = new TextDecoder();
    this.inString = false;
    this.inAudio = false;
    this.escaped = false;
    /** The string that is read now, or the one before the last colon; cut short. */
    this.word = "";
    this.afterKey = false;
  }

  /** @param {Uint8Array} bytes */
  feed(bytes) {
    let start = 0;
    for (let at = 0; at < bytes.length; at++) {
      if (this.inAudio) {
        const quote = bytes.indexOf(QUOTE, at);
        const end = quote < 0 ? bytes.length : quote;
        const decoded = this.decoder.decode(bytes.subarray(at, end), quote >= 0);
        if (decoded.length) this.audio.push(decoded);
        this.inAudio = this.inString = quote < 0;
        start = at = end;
      } else if (this.next(bytes[at])) {
        this.keep(bytes.subarray(start, at + 1));
        start = at + 1;
      }
    }
    if (start < bytes.length) this.keep(bytes.subarray(start));
  }

  /**
   * Looks at one byte outside of audio; true where audio begins after it.
   *
   * @param {number} byte
   */
  next(byte) {
    if (this.inString) {
      if (byte === QUOTE && !this.escaped) this.inString = false;
      else if (this.word.length <= LONGEST_KEY) this.word += String.fromCharCode(byte);
      this.escaped = byte === BACKSLASH && !this.escaped;
    } else if (byte === QUOTE) {
      this.inString = true;
      if (this.afterKey && KEYS.includes(this.word)) this.inAudio = true;
      this.word = "";
      this.afterKey = false;
    } else if (byte === COLON) {
      this.afterKey = true;
    } else if (byte > 0x20) {
      this.afterKey = false;
    }
    return this.inAudio;
  }

  /** @param {Uint8Array} bytes */
  keep(bytes) {
    this.json += this.text.decode(bytes, { stream: true });
    if (this.json.length > MOST_OTHER_BYTES) throw new BadAnswer("too much beside the audio");
  }

  /** @returns {Answer} */
  end() {
    try {
      const state = JSON.parse(this.json + this.text.decode());
      if (typeof state === "object" && state !== null) return { state, audio: this.audio };
    } catch (error) {
      // The parser's message quotes what it read.
      if (!(error instanceof SyntaxError)) throw error;
    }
    throw new BadAnswer("no JSON object");
  }
}

/** Base64 in pieces of any length, as it stands in a JSON string. */
export class Base64Decoder {
  constructor() {
    this.rest = "";
    this.escaped = false;
    this.padded = false;
  }

  /**
   * @param {Uint8Array} bytes
   * @param {boolean} last whether the text ends with them
   * @returns {Uint8Array}
   */
  decode(bytes, last) {
    const text = this.rest + new TextDecoder("latin1").decode(this.unescaped(bytes));
    const length = last ? text.length : text.length - (text.length % 4);
    this.rest = text.slice(length);
    if (last && this.escaped) throw new BadAnswer("no base64");
    if (length && this.padded) throw new BadAnswer("no base64");
    if (length || last) this.padded = !last && text[length - 1] === "=";
    try {
      return Uint8Array.fromBase64(text.slice(0, length));
    } catch {
      throw new BadAnswer("no base64");
    }
  }

  /**
   * Some JSON writers escape the slash, which is a letter of base64; no other letter needs it.
   *
   * @param {Uint8Array} bytes
   */
  unescaped(bytes) {
    if (!this.escaped && !bytes.includes(BACKSLASH)) return bytes;
    return bytes.filter((byte) => {
      const escaped = this.escaped;
      this.escaped = byte === BACKSLASH && !escaped;
      if (escaped && byte !== SLASH) throw new BadAnswer("no base64");
      return !this.escaped;
    });
  }
}
