"""Settings of every job: typed, frozen, read from TOML and checked before anything starts."""
