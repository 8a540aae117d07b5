"""Samples: shaping, loudness, codecs, recordings, chunks. Imports neither torch nor runpod."""
