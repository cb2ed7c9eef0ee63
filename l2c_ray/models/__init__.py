"""Transformers that can be cached: what their units are, and where their weights come from."""
