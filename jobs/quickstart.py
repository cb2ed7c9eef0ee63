#!/usr/bin/env python
"""The whole product on one machine: a Ray head, a learned schedule, an endpoint that runs by it, pictures of all."""

from __future__ import annotations

import base64
import io
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from l2c_ray.cli.exit_codes import errors_as_exit_codes
from l2c_ray.cli.jobs import JobParser
from l2c_ray.cli.output import console
from l2c_ray.distributed import local_head
from l2c_ray.distributed.local_head import LocalHead
from l2c_ray.errors import UnreachableError
from l2c_ray.printable import masked
from l2c_ray.registry import tracking
from l2c_ray.registry.registration import HEATMAP_FILE
from l2c_ray.registry.versions import get_version
from l2c_ray.storage import environment
from l2c_ray.storage.files import home, read_text, write_bytes, write_text

if TYPE_CHECKING:
    from torch import Tensor

REPOSITORY = Path(__file__).resolve().parent.parent
LEARN = ("python", "jobs/learn.py", "--config", "jobs/configs/digits.toml")
SERVE_CONFIG = REPOSITORY / "jobs" / "configs" / "serve.yaml"
SERVE_PORT = "port: 8000"
SEED = 7
READY_SECONDS = 120
INTERRUPTED = 130

# What Ray tells of packing the working directory: a dozen lines of no use here.
NOISE = re.compile(r"\s(INFO|WARNING) (packaging|working_dir|dashboard_sdk)\.py")


def up() -> int:
    code = 1
    try:
        code = show_the_product()
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        if code and local_head.find():
            console.print("not done; `make down` stops what is still up")
    return code


def show_the_product() -> int:
    head = local_head.find()
    if head is None:
        console.rule("starting a Ray head on loopback")
        head = local_head.start()
    console.rule("learning a schedule")
    if code := run("ray", "job", "submit", "--address", head.dashboard_url, "--working-dir", ".", "--", *LEARN):
        return code
    console.rule("serving it")
    config = write_text(home() / "serve.yaml", SERVE_CONFIG.read_text().replace(SERVE_PORT, f"port: {head.serve_port}"))
    if code := run("serve", "deploy", "--address", head.dashboard_url, str(config)):
        return code
    scheduled, full = wait_for_models(head)
    pictures = draw(head, scheduled, full)
    say_where_everything_is(head, pictures)
    return 0


def down() -> int:
    head = local_head.find()
    if head is None:
        console.print("nothing is running")
        return 0
    local_head.stop(head)
    console.print(f"stopped; what was learned stays in {home()}", soft_wrap=True)
    return 0


def run(*command: str) -> int:
    """Runs a command that a user could type, and shows it with what it prints."""
    console.print("$", *command, style="bold", soft_wrap=True)
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=local_head.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        for line in process.stdout or ():
            if not NOISE.search(line):
                sys.stdout.write(line)
                sys.stdout.flush()
    return process.returncode


def wait_for_models(head: LocalHead) -> list[dict[str, Any]]:
    """The endpoint's models (the scheduled one first), once it answers."""
    import requests

    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            answer = requests.get(f"{head.serve_url}/v1/models", timeout=10)
            if answer.ok:
                return answer.json()["data"]
        except (requests.ConnectionError, requests.Timeout):
            pass
        time.sleep(1)
    raise UnreachableError(head.serve_url, "the endpoint did not come up", f"see {head.dashboard_url}/#/serve")


def draw(head: LocalHead, scheduled: dict[str, Any], full: dict[str, Any]) -> list[Path]:
    """Writes the grid of digits, the router's heatmap and the frontier."""
    from l2c_ray.distributed.publishing import FRONTIER_FILE
    from l2c_ray.evaluation.plots import plot_images

    schedule = scheduled["schedule"]
    title = f"{schedule['name']} version {schedule['version']}: {schedule['compute_share']:.0%} of the compute"
    grid = plot_images(
        [("computing everything", ask_for_digits(head, full["id"])), (title, ask_for_digits(head, scheduled["id"]))]
    )
    folder = home() / "pictures"
    pictures = [write_bytes(folder / "digits.png", grid)]
    client = tracking.connect()
    run_id = get_version(client, schedule["name"], schedule["version"]).run_id
    for name in (HEATMAP_FILE, FRONTIER_FILE):
        pictures.append(write_bytes(folder / name, Path(client.download_artifacts(run_id, name)).read_bytes()))
    return pictures


def ask_for_digits(head: LocalHead, model: str) -> Tensor:
    """One digit of every class from the endpoint, [10, 1, 8, 8] in [-1, 1].

    Raises:
        UnreachableError: the endpoint does not answer, or with an error.
    """
    import numpy as np
    import requests
    import torch
    from PIL import Image

    route = f"{head.serve_url}/v1/images/generations"
    images = []
    for label in range(10):
        try:
            answer = requests.post(route, json={"label": label, "seed": SEED, "model": model}, timeout=60)
            answer.raise_for_status()
        except requests.RequestException as error:
            reason = str(error).splitlines()[0]
            raise UnreachableError(route, f"drew no digit ({reason})", f"see {head.dashboard_url}/#/serve") from error
        png = base64.b64decode(answer.json()["data"][0]["b64_json"])
        images.append(torch.from_numpy(np.array(Image.open(io.BytesIO(png)))))
    return torch.stack(images)[:, None] / 127.5 - 1


def say_where_everything_is(head: LocalHead, pictures: list[Path]) -> None:
    console.rule("done")
    token = local_head.token_file() or "$RAY_AUTH_TOKEN"
    exports = local_head.exports_file()
    lines = [("picture", str(picture)) for picture in pictures] + [
        ("endpoint", f"{head.serve_url}/v1/images/generations"),
        ("Ray dashboard", f"{head.dashboard_url} (log in with the token in {token})"),
        ("MLflow", mlflow_access(tracking.tracking_uri())),
        ("stop it all", "make down"),
        ("use it yourself", f". {exports}    (for ray, serve, l2c and mlflow in your shell; it says:)"),
    ]
    for name, value in lines:
        console.print(f"{name:15} {value}", soft_wrap=True)
    for line in read_text(exports).splitlines():
        console.print(line, soft_wrap=True)


def mlflow_access(uri: str) -> str:
    """Where the tracking server's pages are, or the command that shows those of a database; without a password."""
    shown = masked(uri)
    if urlsplit(uri).scheme in ("http", "https"):
        return shown
    store = shlex.quote(uri) if uri == shown else '"$MLFLOW_TRACKING_URI"'
    return f"{Path(sys.executable).parent}/mlflow ui --host 127.0.0.1 --backend-store-uri {store}"


if __name__ == "__main__":
    parser = JobParser(description=__doc__)
    parser.add_argument("action", choices=["up", "down"])
    # A trial run leaves nothing outside of the checkout.
    os.environ["L2C_HOME"] = os.environ.get("L2C_HOME") or str(REPOSITORY / ".l2c")
    with errors_as_exit_codes():
        action = parser.parse_args().action
        environment.normalize()
        sys.exit({"up": up, "down": down}[action]())
