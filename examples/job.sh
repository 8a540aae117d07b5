#!/usr/bin/env bash
# A job that is put in the queue and asked for later, as long texts should be.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
endpoint=${ENDPOINT:-http://127.0.0.1:8000}
status_method=GET
# The local API runs a job when its status is asked for, and answers POST alone.
[[ $endpoint == http://127.* || $endpoint == http://localhost* ]] && status_method=POST
call() {
  curl -sS --fail-with-body -H "Authorization: Bearer ${RUNPOD_API_KEY:-}" \
    -H "Content-Type: application/json" "$@"
}
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

id=$(call "$endpoint/run" -d '{"input": {"text": "Patience pays off."}}' | field id)
while :; do
  answer=$(call -X "$status_method" "$endpoint/status/$id")
  case $(field status <<<"$answer") in
    IN_QUEUE | IN_PROGRESS) sleep 1 ;;
    *) break ;;
  esac
done
python3 "$here/save_audio.py" "${1:-job.mp3}" <<<"$answer"
