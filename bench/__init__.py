"""Repeatable measurements. `make bench` runs them all; BENCHMARKS.md keeps the figures."""
