"""Voices: names, and the recordings they stand for. Imports neither torch nor runpod."""
