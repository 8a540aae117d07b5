"""What is written becomes what is spoken. Imports neither torch nor runpod."""
