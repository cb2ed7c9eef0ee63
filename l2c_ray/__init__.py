"""Learns, versions and serves static caching schedules for diffusion transformers on Ray."""
