"""Audio on its way to the caller: a link, inline, a kept copy. Also what a caller points to."""
