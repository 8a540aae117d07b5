"""The queue door: RunPod jobs, their progress, the SDK's loop, the start of a worker."""
