"""Delivery of audio as a link, inline or as a kept copy. Also downloads from callers' URLs."""
