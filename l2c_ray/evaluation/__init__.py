"""Cost, error, Fréchet distance, the frontier protocol and plots."""
