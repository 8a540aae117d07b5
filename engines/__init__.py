"""Engines: each turns a plan into frames of audio.

    base.py           what goes into an engine, and what comes out
    registry.py       the engines by name
    espeak/           the preview voice
    kokoro/           a neural voice on the CPU
    piper/            voices of a small model each
    upstream/         any server with OpenAI's contract for speech
    pulled.py         a speech that is made by the thread that reads it
    phonemic.py       such a speech, by a model that turns phonemes into sound
    onnx.py           models for onnxruntime
    casting.py        which of an engine's own voices stands for which voice
    vibevoice/        the model
    subprocess.py     an engine in a process of its own, started anew when it is lost
    child.py          that process
    backoff.py        exponential back-off between starts of a lost engine
    memory.py         memory by measuring
    manager/          several models in one worker: which are resident
    priority_lock.py  a lock that serves the earliest deadline first

The registry makes an engine by calling `create(settings)` of its package.
"""
