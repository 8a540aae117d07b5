"""Builds what bootstrap.sh found missing on the volume: `python -m provision`.

Its modules need only Python 3.11 and the standard library, because they run before there is a
virtual environment. Exceptions: `installed` and `model` run in that environment, and `in_use` runs
in the worker.
"""
