"""Reads a job's answer from standard input and writes its audio to the file that is named.

curl -s .../runsync -d '{"input": {"text": "Hello."}}' | python3 save_audio.py hello.mp3
"""

import base64
import json
import sys
from pathlib import Path

if len(sys.argv) != 2:
    sys.exit("usage: ... | python3 save_audio.py FILE")
try:
    reply = json.load(sys.stdin)
except json.JSONDecodeError:
    sys.exit("no answer: is the server running?")
output = reply.get("output") or {}
if "audio_base64" not in output:
    sys.exit(f"no audio: {reply.get('error') or output.get('audio_url') or reply.get('status')}")
Path(sys.argv[1]).write_bytes(base64.b64decode(output["audio_base64"]))
print(f"{sys.argv[1]}: {output['duration_sec']} s of {output['format']} by {output['voice']}")
