"""Names and the recordings that they stand for. Imports neither torch nor runpod."""
