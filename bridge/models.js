/**
 * The models: one of ours, and every name that OpenAI's speech models had, for clients that carry
 * one in their code. OpenAI's names mean the worker's default.
 */

import { invalid } from "./errors.js";
import schema from "./request.schema.json";

export const NAMES = schema.properties.model.examples;
const [OURS, ...OPENAIS] = NAMES;

const CREATED = 1_756_166_400; // seconds: 2025-08-26, when VibeVoice came out

/** @param {string} id */
const model = (id) => ({ id, object: "model", created: CREATED, owned_by: OURS });

/** The list of /v1/models; `models` is where GUIs look for it in /v1/audio/models. */
export function listModels(names = NAMES) {
  const data = names.map(model);
  return { object: "list", data, models: data };
}

/** Whether a model's name is OpenAI's, and so the worker's default. @param {string} name */
export const isDefault = (name) => OPENAIS.includes(name.toLowerCase());

/** @param {string} id */
export function getModel(id, names = NAMES) {
  if (names.some((name) => name.toLowerCase() === id.toLowerCase())) return model(id);
  const problem = `The model '${id.slice(0, 100)}' does not exist. There are: ${names.join(", ")}`;
  throw invalid("model", "model_not_found", problem, 404);
}
