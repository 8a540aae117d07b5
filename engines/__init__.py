"""Engines turn a plan into audio frames, and nothing else.

base.py           what goes into an engine, and what comes out
registry.py       the engines by name
espeak/           the preview voice               subprocess.py   an engine in another process
vibevoice/        the model                       child.py        that process
priority_lock.py  who is served next              backoff.py      when a lost one starts again
"""
