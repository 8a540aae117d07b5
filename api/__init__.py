"""Door 2: OpenAI's contract over HTTP, and a WebSocket. `server.py` starts it."""
