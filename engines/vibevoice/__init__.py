"""VibeVoice behind the engine wall.

    engine.py      the engine: finds, loads, starts        code.py    where upstream's code is
    fast/          the fast runtime                        hub.py     where models lie
    reference.py   the reference runtime, by upstream's    download.py  a model, whole or not at all
    model.py       `generate`; both loaded by loader.py    checkpoint.py  what a model folder holds
    prompt.py      the token ids of a chunk                memory.py  whether there is room
    frames.py      frames on their way to a reader         failures.py  what a GPU's errors mean
    architecture.py  the sizes of a model

Importing the package, `engine` and what it imports at its top needs neither torch nor upstream's
code; loading the engine does.
"""
