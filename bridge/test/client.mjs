/**
 * OpenAI's npm client against a bridge: writes what it hears to FOLDER, prints what else it saw.
 *
 *     node test/client.mjs http://127.0.0.1:8787/v1 TOKEN FOLDER
 */

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import OpenAI from "openai";

const [baseURL, apiKey, folder] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const speech = {
  model: "tts-1",
  voice: "alloy",
  input: "The quick brown fox jumps over the lazy dog.",
};
const save = (name, bytes) => writeFile(join(folder, name), Buffer.from(bytes));

for (const response_format of ["mp3", "opus", "aac", "flac", "wav", "pcm"]) {
  const whole = await client.audio.speech.create({ ...speech, response_format });
  await save(`whole.${response_format}`, await whole.arrayBuffer());
  const streamed = await client.audio.speech.create({ ...speech, response_format });
  const parts = [];
  for await (const part of streamed.body) parts.push(part);
  await save(`streamed.${response_format}`, Buffer.concat(parts));
}

const response = await client.audio.speech.create({ ...speech, stream_format: "sse" });
const events = (await response.text())
  .split("\r\n\r\n")
  .filter((line) => line.startsWith("data: {"))
  .map((line) => JSON.parse(line.slice("data: ".length)));
const deltas = events.filter(({ type }) => type === "speech.audio.delta");
await save("events.mp3", Buffer.concat(deltas.map(({ audio }) => Buffer.from(audio, "base64"))));

const models = [];
for await (const { id } of client.models.list()) models.push(id);

const errors = [];
const attempts = [
  () => new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).models.list(),
  () => client.audio.speech.create({ ...speech, model: "fake_id" }),
  () => client.audio.speech.create({ ...speech, voice: undefined }),
];
for (const attempt of attempts) {
  try {
    await attempt();
  } catch (error) {
    errors.push([error.constructor.name, error.status, error.code]);
  }
}
console.log(JSON.stringify({ models, events: events.map(({ type }) => type), errors }));
