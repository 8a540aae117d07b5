/**
 * What the bridge makes of request bodies, in Node: a line of JSON in, a line of JSON out. A body that
 * is taken comes back as `{ taken }`, one that is refused as `{ param, code }`.
 */

import { build } from "esbuild";
import { createInterface } from "node:readline";

const bundle = await build({
  entryPoints: ["contract.js"],
  bundle: true,
  write: false,
  format: "esm",
});
const source = Buffer.from(bundle.outputFiles[0].contents).toString("base64");
const { parseAsk } = await import(`data:text/javascript;base64,${source}`);

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(verdict(JSON.parse(line))));
}

function verdict(body) {
  try {
    const { speed, extras } = parseAsk(body, 4096);
    return { taken: { ...extras, speed } };
  } catch (error) {
    if (!error.body) throw error;
    const { param, code } = error.body.error;
    return { param, code };
  }
}
