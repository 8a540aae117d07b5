"""Engines: each turns a plan into frames of audio.

    base.py           what goes into an engine, and what comes out
    registry.py       the engines by name
    espeak/           the preview voice
    vibevoice/        the model
    subprocess.py     an engine in a process of its own, started anew when it is lost
    child.py          that process
    backoff.py        exponential back-off between starts of a lost engine
    memory.py         memory by measuring
    manager/          several models in one worker: which are resident
    priority_lock.py  a lock that serves the earliest deadline first

The registry makes an engine by calling `create(settings)` of its package.
"""
