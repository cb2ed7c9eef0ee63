#!/usr/bin/env python
"""The whole product on one machine: a Ray head, a learned schedule, an endpoint that runs by it, pictures of all."""

import argparse
import base64
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from PIL import Image
from torch import Tensor

from l2c_ray.cli.output import console
from l2c_ray.distributed import local_head
from l2c_ray.distributed.learn import FRONTIER_FILE, HEATMAP_FILE
from l2c_ray.distributed.local_head import LocalHead
from l2c_ray.errors import L2CError, UnreachableError
from l2c_ray.evaluation.plots import plot_images
from l2c_ray.registry import tracking
from l2c_ray.registry.versions import get_version
from l2c_ray.storage.files import home, write_bytes, write_text

REPOSITORY = Path(__file__).resolve().parent.parent
LEARN = ("python", "jobs/learn.py", "--config", "jobs/configs/digits.toml")
SERVE_CONFIG = REPOSITORY / "jobs" / "configs" / "serve.yaml"
SEED = 7
READY_SECONDS = 120

# What Ray tells of packing the working directory: a dozen lines of no use here.
NOISE = re.compile(r" (INFO|WARNING) (packaging|working_dir|dashboard_sdk)\.py")


def up() -> int:
    head = local_head.find()
    if head is None:
        console.rule("starting a Ray head on loopback")
        head = local_head.start()
    console.rule("learning a schedule")
    if code := run("ray", "job", "submit", "--address", head.dashboard_url, "--working-dir", ".", "--", *LEARN):
        return code
    console.rule("serving it")
    config = write_text(home() / "serve.yaml", SERVE_CONFIG.read_text().replace("8000", str(head.serve_port)))
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
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=local_head.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for line in process.stdout or ():
        if not NOISE.search(line):
            sys.stdout.write(line)
            sys.stdout.flush()
    return process.wait()


def wait_for_models(head: LocalHead) -> list[dict[str, Any]]:
    """The endpoint's models (the scheduled one first), once it answers."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            answer = requests.get(f"{head.serve_url}/v1/models", timeout=10)
            if answer.ok:
                return answer.json()["data"]
        except (requests.ConnectionError, requests.Timeout):
            pass
        time.sleep(1)
    raise UnreachableError(head.serve_url, "the endpoint did not come up", f"see serve status and {head.dashboard_url}")


def draw(head: LocalHead, scheduled: dict[str, Any], full: dict[str, Any]) -> list[Path]:
    """Writes the grid of digits, the router's heatmap and the frontier."""
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
    """One digit of every class from the endpoint, [10, 1, 8, 8] in [-1, 1]."""
    images = []
    for label in range(10):
        body = {"label": label, "seed": SEED, "model": model}
        answer = requests.post(f"{head.serve_url}/v1/images/generations", json=body, timeout=60)
        answer.raise_for_status()
        png = base64.b64decode(answer.json()["data"][0]["b64_json"])
        images.append(torch.from_numpy(np.array(Image.open(io.BytesIO(png)))))
    return torch.stack(images)[:, None] / 127.5 - 1


def say_where_everything_is(head: LocalHead, pictures: list[Path]) -> None:
    console.rule("done")
    lines = [("picture", str(picture)) for picture in pictures] + [
        ("endpoint", f"{head.serve_url}/v1/images/generations"),
        ("Ray dashboard", f"{head.dashboard_url} (log in with the token in ~/.ray/auth_token)"),
        ("MLflow UI", f".venv/bin/mlflow ui --host 127.0.0.1 --backend-store-uri {tracking.tracking_uri()}"),
        ("stop it all", "make down"),
    ]
    for name, value in lines:
        console.print(f"{name:14} {value}", soft_wrap=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    # A trial run leaves nothing outside of the checkout.
    os.environ.setdefault("L2C_HOME", str(REPOSITORY / ".l2c"))
    parser.add_argument("action", choices=["up", "down"])
    try:
        sys.exit({"up": up, "down": down}[parser.parse_args().action]())
    except L2CError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
