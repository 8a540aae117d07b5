"""Engines turn a plan into audio frames, and nothing else.

    base.py           what goes into an engine, and what comes out
    registry.py       the engines by name
    espeak/           the preview voice
    vibevoice/        the model
    subprocess.py     an engine in a process of its own, started anew when it is lost
    child.py          that process
    backoff.py        how long to wait before a start
    priority_lock.py  who is served next

An engine is entered by `create(settings)` of its package, through the registry.
"""
