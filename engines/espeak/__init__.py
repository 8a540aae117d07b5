"""The preview voice: every language, no model, by espeak-ng."""
