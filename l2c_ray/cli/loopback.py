"""Settings that must be made before Ray is imported."""

import os


def keep_private_ray_on_loopback() -> None:
    """Makes a Ray that this process may start for itself listen on loopback alone."""
    if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
        # Ray's own switch, which it reads when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
