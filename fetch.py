"""Gets what a caller points to, from public addresses only.

The SDK's own safe download checks every address and redirect, and connects to what it has checked.
"""

import time
from contextlib import closing

from requests import RequestException
from runpod.serverless.utils.rp_ssrf import SSRFError, iter_content_capped, safe_get

from speech.errors import VoiceError
from speech.request import MOST_RECORDING_BYTES as MOST_BYTES

_TIMEOUT_SEC = 30


def fetch_voice(url: str) -> bytes:
    """The bytes at `url`, at most 10 MB within 30 s. Raises `VoiceError`."""
    deadline = time.monotonic() + _TIMEOUT_SEC
    data = bytearray()
    try:
        with closing(safe_get(url, timeout=10, max_bytes=MOST_BYTES)) as response:
            if response.status_code != 200:
                raise VoiceError(f"voice_url: the server answers {response.status_code}")
            for piece in iter_content_capped(response, 1 << 16, MOST_BYTES):
                data += piece
                if time.monotonic() > deadline:
                    raise VoiceError(f"voice_url: takes longer than {_TIMEOUT_SEC} s")
    except SSRFError as problem:
        if "size cap" in str(problem):
            raise VoiceError(f"voice_url: is larger than {MOST_BYTES // 2**20} MB") from problem
        raise VoiceError("voice_url: leads to no public http address") from problem
    except (RequestException, ValueError, OSError) as problem:
        raise VoiceError(f"voice_url: cannot be fetched ({type(problem).__name__})") from problem
    return bytes(data)
