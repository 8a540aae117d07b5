/** Plays what it is sent, in order, and tells how many samples it has played. */
class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.clear();
    this.port.onmessage = ({ data }) => {
      if (data === "clear") this.clear();
      else this.waiting.push(data);
    };
  }

  clear() {
    this.waiting = [];
    this.at = 0;
    this.played = 0;
    this.told = -1;
  }

  process(_, [[out]]) {
    let filled = 0;
    while (filled < out.length && this.waiting.length) {
      const part = this.waiting[0].subarray(this.at, this.at + out.length - filled);
      out.set(part, filled);
      filled += part.length;
      this.at += part.length;
      if (this.at === this.waiting[0].length) {
        this.waiting.shift();
        this.at = 0;
      }
    }
    this.played += filled;
    if (this.played !== this.told && (this.played - this.told > 600 || !this.waiting.length)) {
      this.port.postMessage(this.played);
      this.told = this.played;
    }
    return true;
  }
}

registerProcessor("player", Player);
