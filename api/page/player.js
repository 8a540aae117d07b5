/** PCM in, sound out: keeps what was heard, for the waveform and for the file to download. */

export const RATE = 24000;
const PEAK_SAMPLES = 480;

export class Player {
  /** @param {() => void} onMove called while it plays */
  constructor(onMove) {
    this.onMove = onMove;
    this.context = null;
    this.reset();
  }

  /** Has to be called from a gesture: browsers let no page make noise unasked. */
  async start() {
    if (!this.context) {
      this.context = new AudioContext({ sampleRate: RATE });
      await this.context.audioWorklet.addModule("page/worklet.js");
      this.node = new AudioWorkletNode(this.context, "player", { numberOfInputs: 0 });
      this.node.port.onmessage = ({ data }) => {
        this.played = data;
        this.onMove();
      };
      this.node.connect(this.context.destination);
    }
    await this.context.resume();
    this.node.port.postMessage("clear");
    this.reset();
  }

  reset() {
    this.parts = [];
    this.peaks = [];
    this.count = 0;
    this.played = 0;
  }

  /** @param {ArrayBuffer} bytes 16-bit mono */
  feed(bytes) {
    const pcm = new Int16Array(bytes);
    const samples = Float32Array.from(pcm, (value) => value / 32768);
    this.parts.push(pcm);
    for (let at = 0; at < samples.length; at += PEAK_SAMPLES) {
      const part = samples.subarray(at, at + PEAK_SAMPLES);
      this.peaks.push(part.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
    }
    this.count += samples.length;
    this.node.port.postMessage(samples, [samples.buffer]);
  }

  get playedMs() {
    return (this.played / RATE) * 1000;
  }

  get paused() {
    return this.context?.state === "suspended";
  }

  pause() {
    return this.context?.suspend();
  }

  resume() {
    return this.context?.resume();
  }

  stop() {
    this.node?.port.postMessage("clear");
    return this.resume();
  }

  /** All that came, as a WAV file. */
  file() {
    const size = this.count * 2;
    const head = new DataView(new ArrayBuffer(44));
    const text = (at, word) => [...word].forEach((c, i) => head.setUint8(at + i, c.charCodeAt(0)));
    text(0, "RIFF");
    head.setUint32(4, 36 + size, true);
    text(8, "WAVEfmt ");
    head.setUint32(16, 16, true);
    head.setUint16(20, 1, true);
    head.setUint16(22, 1, true);
    head.setUint32(24, RATE, true);
    head.setUint32(28, RATE * 2, true);
    head.setUint16(32, 2, true);
    head.setUint16(34, 16, true);
    text(36, "data");
    head.setUint32(40, size, true);
    return new Blob([head, ...this.parts], { type: "audio/wav" });
  }
}
