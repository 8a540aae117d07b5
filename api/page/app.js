/** The page: what is typed is spoken over a WebSocket and heard while it is made. */

import { call, curl, openSocket } from "./api.js";
import { Player } from "./player.js";

const $ = (id) => document.getElementById(id);
const player = new Player(show);
let socket = null;
let lines = [];
let words = [];
let text = "";
let done = true;
let uploads = new Set();
const KINDS = {
  espeak: "This is the preview voice (espeak-ng), in the place of the model.",
  kokoro: "This is a neural voice (Kokoro), and no VibeVoice.",
  piper: "This is a neural voice (Piper), and no VibeVoice.",
  upstream: "This voice comes from another server, and is no VibeVoice.",
};

function ask() {
  const [model, voice] = [$("model").value || "vibevoice", $("voice").value];
  return { text: $("text").value, model, voice, speed: Number($("speed").value) };
}

function say(words) {
  $("status").textContent = words;
}

function failed(error) {
  if (error.status === 401) {
    $("key-row").hidden = false;
    $("key").focus();
  }
  say(error.message);
}

/** Draws where the speech is: the waveform with its played part, and the sentence in its text. */
function show() {
  draw();
  const at = player.playedMs;
  const line = lines.findLast(({ start_ms }) => start_ms <= at);
  const over = done && player.count && player.played >= player.count;
  const [start, end] = line && !over ? [line.text_start, line.text_end] : [0, 0];
  // The server counts code points, JavaScript halves of them.
  const points = [...text];
  const part = (from, to) => points.slice(from, to).join("");
  const mark = document.createElement("mark");
  const word = words.findLast((each) => each.start_sec * 1000 <= at && each.text_start >= start);
  const [first, last] = word ? [word.text_start, word.text_end] : [start, start];
  const lit = document.createElement("b");
  lit.textContent = part(first, last);
  mark.append(part(start, first), ...(word ? [lit] : []), part(last, end));
  $("spoken").replaceChildren(part(0, start), ...(end ? [mark] : []), part(end));
  if (over) finish("Done.");
}

function draw() {
  const canvas = $("wave");
  const scale = devicePixelRatio;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const paint = canvas.getContext("2d");
  paint.clearRect(0, 0, width, height);
  paint.fillStyle = getComputedStyle(canvas).color;
  const { peaks, played, count } = player;
  const bars = Math.floor(width / (3 * scale));
  const each = Math.max(1, peaks.length / bars);
  for (let bar = 0; bar < Math.min(bars, peaks.length); bar += 1) {
    const from = Math.floor(bar * each);
    const peak = Math.max(...peaks.slice(from, Math.max(from + 1, Math.floor((bar + 1) * each))));
    const tall = Math.max(scale, peak * height);
    paint.globalAlpha = (from / peaks.length) * count <= played ? 1 : 0.35;
    paint.fillRect(bar * 3 * scale, (height - tall) / 2, 2 * scale, tall);
  }
}

function buttons(speaking) {
  $("pause").disabled = $("stop").disabled = !speaking;
  $("download").disabled = speaking || !player.count;
  $("pause").textContent = "Pause";
}

function finish(words) {
  if ($("stop").disabled) return;
  buttons(false);
  say(words);
}

async function speak(event) {
  event.preventDefault();
  socket?.close();
  await player.start();
  ({ text } = ask());
  lines = [];
  words = [];
  done = false;
  say("Waiting for the first sound ...");
  buttons(true);
  const mine = (socket = openSocket($("key").value));
  const { model, voice, speed } = ask();
  mine.onopen = () => {
    const tell = (type, fields = {}) => mine.send(JSON.stringify({ type, ...fields }));
    const lights = !$("light-row").hidden && $("light").checked;
    const timestamps = lights ? "word" : null;
    const form = { response_format: "pcm", sample_rate: 24000 };
    tell("session.config", { model, voice, speed, timestamps, ...form });
    tell("input.text", { text });
    tell("input.done");
  };
  mine.onmessage = ({ data }) => {
    if (mine === socket) heard(data);
  };
  mine.onclose = ({ reason }) => {
    if (mine !== socket) return;
    socket = null;
    if (!done) unheard(reason);
  };
}

function heard(data) {
  if (typeof data !== "string") {
    if (!player.count) say("Speaking ...");
    player.feed(data);
    draw();
    return;
  }
  const message = JSON.parse(data);
  if (message.type === "audio.start") lines.push(message);
  if (message.type === "audio.heard") words.push(...(message.words ?? []));
  if (message.type === "session.done") ended();
  if (message.type === "cancelled") {
    ended();
    say(message.text_spoken ? `Stopped after: ${message.text_spoken}` : "Stopped.");
  }
  // After its last word an idle socket is closed, while the sound may still go on.
  if (message.type === "error" && !done) {
    done = true;
    finish(message.message);
  }
}

function ended() {
  done = true;
  show();
}

/** A socket that was refused tells a page nothing; asking once more does. */
async function unheard(reason) {
  done = true;
  finish(reason || "The connection broke off.");
  await loadVoices();
}

function stop() {
  const playedMs = Math.round(player.playedMs);
  player.stop();
  done = true;
  finish("Stopped.");
  const open = socket?.readyState === WebSocket.OPEN;
  if (open) socket.send(JSON.stringify({ type: "cancel", played_ms: playedMs }));
}

async function pause() {
  await (player.paused ? player.resume() : player.pause());
  $("pause").textContent = player.paused ? "Resume" : "Pause";
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(player.file());
  link.download = "speech.wav";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function copyCurl() {
  const command = curl(ask(), Boolean($("key").value));
  try {
    await navigator.clipboard.writeText(command);
    say("The command is in the clipboard.");
  } catch {
    say(command); // no clipboard without https
  }
}

async function loadVoices(chosen) {
  try {
    const facts = await call($("key").value, "v1/capabilities");
    const model = offer(facts.models);
    const path = `v1/audio/voices?model=${encodeURIComponent(model.id)}`;
    const { data } = await call($("key").value, path);
    uploads = new Set(data.filter((voice) => voice.created_at).map((voice) => voice.id));
    const before = chosen ?? $("voice").value;
    const isAlias = (voice) => Boolean(voice.alias_of);
    const isOwn = (voice) => !voice.alias_of && !uploads.has(voice.id);
    const isUpload = (voice) => uploads.has(voice.id);
    $("voice").replaceChildren(
      ...group("Uploads", data.filter(isUpload)),
      ...group("Voices", data.filter(isOwn)),
      ...group("OpenAI's names", data.filter(isAlias)),
    );
    if (data.some(({ id }) => id === before)) $("voice").value = before;
    choose();
    $("text").maxLength = facts.input_limit;
    $("light-row").hidden = !facts.transcription.timestamps;
    $("engine").textContent = KINDS[model.engine] ?? `This is ${model.engine}, and no VibeVoice.`;
    $("engine").hidden = model.engine === "vibevoice";
    $("no-cloning").hidden = model.cloning;
  } catch (error) {
    failed(error);
  }
}

/** Shows the models to choose from, and gives the chosen one. */
function offer(models) {
  const chosen =
    models.find(({ id }) => id === $("model").value) ?? models.find((each) => each.default);
  $("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
  $("model").value = chosen.id;
  $("model-row").hidden = models.length < 2;
  return chosen;
}

function group(label, voices) {
  if (!voices.length) return [];
  const group = Object.assign(document.createElement("optgroup"), { label });
  group.append(...voices.map(({ id }) => new Option(id, id)));
  return [group];
}

function choose() {
  $("delete").disabled = !uploads.has($("voice").value);
}

async function upload(event) {
  event.preventDefault();
  const body = new FormData();
  body.set("name", $("name").value);
  body.set("consent", $("consent").value);
  body.set("audio_sample", $("sample").files[0]);
  say("Uploading ...");
  try {
    const voice = await call($("key").value, "v1/audio/voices", { method: "POST", body });
    await loadVoices(voice.id);
    say(`${voice.name} can speak now.`);
    $("bring").reset();
  } catch (error) {
    failed(error);
  }
}

async function remove() {
  const name = $("voice").value;
  if (!confirm(`Delete ${name}?`)) return;
  try {
    const path = `v1/audio/voices/${encodeURIComponent(name)}`;
    await call($("key").value, path, { method: "DELETE" });
    await loadVoices();
    say(`${name} is deleted.`);
  } catch (error) {
    failed(error);
  }
}

$("ask").addEventListener("submit", speak);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("stop").addEventListener("click", stop);
$("pause").addEventListener("click", pause);
$("download").addEventListener("click", download);
$("curl").addEventListener("click", copyCurl);
$("bring").addEventListener("submit", upload);
$("delete").addEventListener("click", remove);
$("voice").addEventListener("change", choose);
$("key").addEventListener("change", () => loadVoices());
$("model").addEventListener("change", () => loadVoices());
$("speed").addEventListener("input", () => ($("speed-shown").value = $("speed").value));
addEventListener("resize", draw);
loadVoices();
