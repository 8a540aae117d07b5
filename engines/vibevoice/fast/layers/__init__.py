"""The networks of VibeVoice, for all slots at once.

language.py    the language model                      kv_cache.py  its keys and values
head.py        the diffusion head                      solver.py  its steps as constants
codec.py       decoder and encoders                    depthwise.py  their convolutions
norm.py        the norm of all networks                noise.py   a chunk's random numbers
weights.py     weights in their places                 packer.py  the way there
kernels.py     which kernels do the work on this device
"""
