"""The pure core: text in, a plan out; frames in, a file out. Imports neither torch nor runpod."""
