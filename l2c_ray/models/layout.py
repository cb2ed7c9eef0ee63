"""Where the files of a model lie in a folder of diffusers' layout."""

from pathlib import Path

WEIGHTS = Path("transformer", "diffusion_pytorch_model.safetensors")
CONFIG = WEIGHTS.with_name("config.json")
