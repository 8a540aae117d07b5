"""The fast runtime: many chunks side by side in our own frame loop (docs/frame-loop.md).

From the outside in; `layers/` has the arithmetic of one step:

    runtime.py     what the engine loads                   trial.py   a text tried at the start
    loop.py        schedules, launches, reads, in a thread of its own
    scheduler.py   which sequence gets which slot          capacity.py  how many slots there are
    sequence.py    a chunk from waiting to finished        meter.py   how long steps take
    batch.py       sequences in, outputs of steps out      slots.py   the state of all slots
    step.py        one frame of every slot                 graph_shape.py  the few shapes of a step
    graphs.py      steps as CUDA graphs                    lru.py     a cache bounded in bytes
    voice_cache.py voices' latents and prompt prefixes
"""
