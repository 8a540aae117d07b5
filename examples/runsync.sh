#!/usr/bin/env bash
# Speech in one call. On RunPod: ENDPOINT=https://api.runpod.ai/v2/YOUR_ENDPOINT RUNPOD_API_KEY=...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
curl -sS --fail-with-body "${ENDPOINT:-http://127.0.0.1:8000}/runsync" \
  -H "Authorization: Bearer ${RUNPOD_API_KEY:-}" \
  -H "Content-Type: application/json" \
  -d '{"input": {"text": "The quick brown fox jumps over the lazy dog.", "speaker_name": "Alice"}}' |
  python3 "$here/save_audio.py" "${1:-fox.mp3}"
