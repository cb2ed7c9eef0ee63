"""Schedules in the file formats of other projects: read from them, and written for them."""
