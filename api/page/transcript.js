/** A recording on the page: dropped, heard, and shown line by line with its speakers. */

import { Refused } from "./api.js";

const $ = (id) => document.getElementById(id);
let segments = [];
let running = null;

function say(words) {
  $("told").textContent = words;
}

/** The events of a stream, as they come. @param {Response} response */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\r\n\r\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function hear(file) {
  if (!file) return;
  running?.abort();
  const mine = (running = new AbortController());
  segments = [];
  $("lines").replaceChildren();
  buttons();
  say(`Listening to ${file.name} ...`);
  const body = new FormData();
  body.set("file", file);
  body.set("model", "whisper-1");
  body.set("stream", "true");
  body.set("response_format", "diarized_json");
  try {
    await follow(await sent(body, mine.signal));
    say(segments.length ? "All of it is written down." : "Nobody speaks in this recording.");
  } catch (error) {
    if (mine !== running) return;
    say(mine.signal.aborted ? "Stopped." : error.message);
    if (error.status === 401) {
      $("key-row").hidden = false;
      $("key").focus();
    }
  }
  if (mine === running) running = null;
  buttons();
}

async function sent(body, signal) {
  const key = $("key").value;
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const path = "v1/audio/transcriptions";
  const response = await fetch(path, { method: "POST", body, headers, signal });
  if (response.ok) return response;
  throw new Refused(response.status, (await response.json()).error.message);
}

/** What is heard first has no speaker yet; the lines come once it is known who is who. */
async function follow(response) {
  let heard = "";
  let complete = false;
  for await (const event of events(response)) {
    if (event.type === "error") throw new Error(event.message);
    if (event.type === "transcript.text.done") complete = true;
    if (event.type === "transcript.text.delta") {
      heard += event.delta;
      if (!segments.length) say(heard.slice(-200));
    }
    if (event.type === "transcript.text.segment") {
      segments.push(event);
      $("lines").append(line(event));
    }
  }
  if (!complete) throw new Error("The connection broke off.");
}

function line({ start, speaker, text }) {
  const time = document.createElement("time");
  time.textContent = clock(start).slice(0, 8);
  const name = document.createElement("b");
  name.textContent = speaker;
  const item = document.createElement("li");
  item.append(time, " ", name, " ", text);
  return item;
}

function clock(seconds) {
  return new Date(Math.round(seconds * 1000)).toISOString().slice(11, 23).replace(".", ",");
}

const asText = () => segments.map(({ speaker, text }) => `${speaker}: ${text}`).join("\n");

function asSubtitles() {
  const cue = ({ start, end, speaker, text }, at) =>
    `${at + 1}\n${clock(start)} --> ${clock(end)}\n${speaker}: ${text}\n`;
  return segments.map(cue).join("\n");
}

async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    say(`The ${name} in the clipboard.`);
  } catch {
    say("The browser gives no clipboard without https.");
  }
}

function buttons() {
  $("copy-text").disabled = $("copy-subtitles").disabled = !segments.length || running !== null;
  $("stop-hearing").disabled = running === null;
}

$("hear").addEventListener("submit", (event) => {
  event.preventDefault();
  hear($("recording").files[0]);
});
$("stop-hearing").addEventListener("click", () => running?.abort());
$("copy-text").addEventListener("click", () => copy(asText(), "text is"));
$("copy-subtitles").addEventListener("click", () => copy(asSubtitles(), "subtitles are"));
for (const name of ["dragover", "drop"]) {
  $("hear").addEventListener(name, (event) => event.preventDefault());
}
$("hear").addEventListener("drop", ({ dataTransfer }) => {
  if (!dataTransfer.files.length) return;
  $("recording").files = dataTransfer.files;
  hear(dataTransfer.files[0]);
});
