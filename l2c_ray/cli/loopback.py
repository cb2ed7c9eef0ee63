"""What must be set before Ray is imported."""

import os


def keep_private_ray_on_loopback() -> None:
    """Has a Ray that this process starts for itself listen on loopback alone; a cluster of others stays as it is."""
    if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
        # Ray's own switch, which it reads when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
