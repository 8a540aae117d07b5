"""What of a text is left unread, and how the rest is written as words. See `text/reading.py`."""
