"""What bootstrap.sh does where something is missing: `python -m provision`.

All of it needs Python 3.11 and the standard library alone, for it runs before there is a virtual
environment. But `installed` and `model` run in that environment, and `in_use` in the worker.
"""
