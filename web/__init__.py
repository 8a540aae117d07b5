"""What `server.py` is made of: the second door, over HTTP and WebSocket."""
