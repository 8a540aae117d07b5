"""The WebSocket `/v1/audio/speech/stream`: a session reads messages, a playback sends audio."""
