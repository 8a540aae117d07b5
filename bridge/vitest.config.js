import { cloudflareTest } from "@cloudflare/vitest-pool-workers";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [
    cloudflareTest({
      main: "./worker.js",
      miniflare: {
        compatibilityDate: "2026-03-01",
        compatibilityFlags: ["enable_request_signal"],
        r2Buckets: ["VIBEVOICE_BUCKET"],
        durableObjects: { SINGLE_FLIGHT: { className: "SingleFlight", useSQLite: true } },
        cf: false,
      },
    }),
  ],
  test: {
    include: ["test/*.test.js"],
    silent: "passed-only",
    maxWorkers: 2, // one would do by itself; the tests mostly wait
    testTimeout: 60_000, // some wait for what the bridge itself waits for; a busy machine adds to it
    hookTimeout: 60_000,
    // workerd looks for a handler that is newer than the pool's wrapper of a Durable Object.
    onUnhandledError: ({ message }) => message !== 'The RPC receiver does not implement "connect".',
  },
});
