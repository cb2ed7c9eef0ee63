"""The `l2c` command. Thin: it parses, calls, prints and gives the exit code."""
