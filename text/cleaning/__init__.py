"""Cleaning steps: what is not read aloud is removed, and the rest is written as words.

`text/reading.py` has their order.
"""
