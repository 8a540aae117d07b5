"""VibeVoice behind the engine wall.

    engine.py      the engine: finds, loads, starts        code.py    where upstream's code is
    fast.py        the fast runtime                        hub.py     where models lie
    upstream.py    the reference runtime, by upstream's    checkpoint.py  what a model folder holds
    model.py       `generate`; both loaded by loader.py    memory.py  whether there is room
    prompt.py      the token ids of a chunk                failures.py  what a GPU's errors mean
    frames.py      frames on their way to a reader

The fast runtime, from the outside in (docs/frame-loop.md):

    loop.py        admits, launches and reads, in a thread of its own
    scheduler.py   which chunk gets which slot             bucket.py  the few shapes of a frame
    scripts.py     chunks as work for a slot
    batch.py       chunks into slots, frames out of them   graphs.py  frames as CUDA graphs
    trial.py       a text that is tried at the start       kernels.py   which do the work here
    capacity.py    how many slots memory has room for      meter.py   how long frames take
    frame.py       one frame of all slots                  slots.py   their state
    language.py    the language model                      cache.py   its keys and values
    head.py        the diffusion head                      solver.py  its steps as constants
    codec.py       decoder and encoders                    depthwise.py  their convolutions
    norm.py        the norm of all networks                noise.py   a chunk's random numbers
    voice_cache.py what is known of voices                 lru.py     a cache bounded in bytes
    weights.py     weights in their places                 packer.py  the way there
    architecture.py  the sizes of a model

Importing the package, `engine` and what it imports at its top needs neither torch nor upstream's
code; loading the engine does.
"""
