"""Engines turn a plan into audio frames, and nothing else."""
