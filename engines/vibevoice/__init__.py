"""VibeVoice behind the engine wall: upstream's own classes, loaded from its clone.

    code.py        where upstream's code comes from      hub.py     where models lie
    checkpoint.py  what a model folder holds             memory.py  whether it fits
    prompt.py      the token ids of a chunk              model.py   upstream's model on its device
    upstream.py    the engine, by upstream's `generate`  frames.py  frames on their way to a reader

Importing any of it imports neither torch nor upstream; loading the engine does.
"""
