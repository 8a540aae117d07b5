"""What a caller may ask for, and what can go wrong."""
