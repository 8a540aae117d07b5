"""VibeVoice behind the engine wall: upstream's own classes, loaded from its clone.

    upstream.py    the engine, by upstream's `generate`   code.py    where its code comes from
    model.py       what the model makes of a chunk        hub.py     where models lie
    prompt.py      the token ids of a chunk               memory.py  whether there is room
    frames.py      frames on their way to a reader        loader.py  the model on its device
    checkpoint.py  what a model folder holds              failures.py  what a GPU's errors mean

Importing the package, `upstream` and what it imports at its top needs neither torch nor upstream's
code; loading the engine does.
"""
