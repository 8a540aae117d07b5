"""`WS /v1/audio/speech/stream`: events, the session that reads them, the playback that answers."""
