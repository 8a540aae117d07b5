"""Door 1's inside: the SDK's loop, progress, the start."""
