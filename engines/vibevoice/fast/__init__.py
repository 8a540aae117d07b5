"""The fast runtime: many chunks side by side in our own frame loop (docs/frame-loop.md).

From the outside in; `layers/` has the arithmetic of one step:

    runtime.py     what the engine loads                   trial.py   a text tried at the start
    loop.py        admits, launches and reads, in a thread of its own
    scheduler.py   which chunk gets which slot             capacity.py  how many slots there are
    scripts.py     chunks as work for a slot               meter.py   how long frames take
    batch.py       chunks into slots, frames out of them   slots.py   their state
    step.py        one frame of all slots                  graph_shape.py  the few shapes of a step
    graphs.py      steps as CUDA graphs                    lru.py     a cache bounded in bytes
    voice_cache.py what is known of voices
"""
