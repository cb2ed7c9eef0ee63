"""Data sets that routers and models learn from."""
