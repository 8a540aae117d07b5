"""Text normalisation and the text plan. Imports neither torch nor runpod."""
