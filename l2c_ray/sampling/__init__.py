"""Solvers, guidance, and the one sampling loop that every caller uses."""
