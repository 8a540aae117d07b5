/**
 * The bridge as a server of its own: what `wrangler deploy` would upload, in workerd.
 *
 *     node test/serve.mjs DIST
 *
 * DIST is the folder that `wrangler deploy --dry-run --outdir DIST` wrote. A line of settings, as JSON,
 * starts a bridge, whose address is printed; an empty line ends it. A bucket is there where the
 * settings have VIBEVOICE_BUCKET.
 */

import { join } from "node:path";
import { createInterface } from "node:readline";
import { Miniflare } from "miniflare";

const folder = process.argv[2];
let bridge;
for await (const line of createInterface({ input: process.stdin })) {
  await bridge?.dispose();
  bridge = line ? start(JSON.parse(line)) : undefined;
  console.log(bridge ? `ready ${(await bridge.ready).origin}` : "ended");
}
await bridge?.dispose();
process.exit(0);

function start({ VIBEVOICE_BUCKET, ...bindings }) {
  return new Miniflare({
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
    durableObjects: { SINGLE_FLIGHT: { className: "SingleFlight", useSQLite: true } },
  });
}
