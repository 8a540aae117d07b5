#!/usr/bin/env bash
# Two speakers, each with a voice, as one file.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
curl -sS --fail-with-body "${ENDPOINT:-http://127.0.0.1:8000}/runsync" \
  -H "Authorization: Bearer ${RUNPOD_API_KEY:-}" \
  -H "Content-Type: application/json" \
  -d @- <<'JSON' | python3 "$here/save_audio.py" "${1:-dialogue.opus}"
{
  "input": {
    "text": "Speaker 1: Did you hear that?\nSpeaker 2: Hear what? [pause:300ms] Oh. That.\nSpeaker 1: Yes, that!",
    "speakers": {"1": "Alice", "2": "Frank"},
    "output_format": "opus"
  }
}
JSON
