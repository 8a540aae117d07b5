/**
 * The bridge as a server of its own: what `wrangler deploy` would upload, in workerd.
 *
 *     node test/serve.mjs DIST '{"AUTH_TOKEN": "..."}'
 *
 * DIST is the folder that `wrangler deploy --dry-run --outdir DIST` wrote. A bucket is there where
 * the settings have VIBEVOICE_BUCKET. Prints its address, and ends with its standard input.
 */

import { join } from "node:path";
import { Miniflare } from "miniflare";

const [folder, json] = process.argv.slice(2);
const { VIBEVOICE_BUCKET, ...bindings } = JSON.parse(json);
const bridge = new Miniflare({
  scriptPath: join(folder, "worker.js"),
  modules: true,
  modulesRoot: folder,
  compatibilityDate: "2026-03-01",
  compatibilityFlags: ["enable_request_signal"],
  host: "127.0.0.1",
  port: 0,
  cf: false,
  bindings,
  r2Buckets: VIBEVOICE_BUCKET ? ["VIBEVOICE_BUCKET"] : [],
});
console.log(`ready ${(await bridge.ready).origin}`);
process.stdin.resume();
process.stdin.on("end", () => bridge.dispose().then(() => process.exit(0)));
