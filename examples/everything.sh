#!/usr/bin/env bash
# Every knob at once: pronunciations, pauses, speed, level, seed, format. docs/api.md explains each.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
curl -sS --fail-with-body "${ENDPOINT:-http://127.0.0.1:8000}/runsync" \
  -H "Authorization: Bearer ${RUNPOD_API_KEY:-}" \
  -H "Content-Type: application/json" \
  -d @- <<'JSON' | python3 "$here/save_audio.py" "${1:-everything.wav}"
{
  "input": {
    "text": "# Chapter one\n\nThe **Xhosa** word was hard to say. <break time=\"700ms\"/> She tried it again, slowly.",
    "speaker_name": "Maya",
    "pronunciations": {"Xhosa": "Kosa"},
    "speed": 0.9,
    "loudness": -18,
    "seed": 7,
    "output_format": "wav",
    "session_id": "docs-example"
  }
}
JSON
