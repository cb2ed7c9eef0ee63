"""Models by name: embedded ones ship in the package, any of them can take its weights from a folder."""

import hashlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from diffusers import DDIMScheduler, DiTTransformer2DModel

from l2c_ray.errors import CheckpointError, ConfigError
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.dit import DiT

WEIGHTS = Path("transformer", "diffusion_pytorch_model.safetensors")

Loader = Callable[[str, Path], CacheableTransformer]


def load(name: str, checkpoint: Path | None = None, device: str = "cpu") -> CacheableTransformer:
    """The model `name`, frozen, in evaluation mode and float32.

    Args:
        checkpoint: a folder in diffusers' layout (transformer/, scheduler/); the embedded weights unless given.

    Raises:
        ConfigError: the zoo has no model of this name.
        CheckpointError: a file is missing, truncated, or holds other tensors than the model has.
    """
    if name not in LOADERS:
        raise ConfigError("model.name", f"there is no model {name!r}", f"take one of {', '.join(LOADERS)}")
    folder = checkpoint or embedded(name)
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(str(folder / WEIGHTS), "is not there", "give a folder in diffusers' layout")
    return LOADERS[name](name, folder).requires_grad_(False).eval().to(device)


def embedded(name: str) -> Path:
    """The folder of the weights that ship in the package."""
    return Path(str(files("l2c_ray.models"))) / "embedded" / name


def _load_dit(name: str, folder: Path) -> CacheableTransformer:
    try:
        transformer, report = DiTTransformer2DModel.from_pretrained(
            folder, subfolder="transformer", local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
        scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    except Exception as error:
        # Diffusers lets whatever a broken config leads to through: TypeError, ZeroDivisionError and the like.
        reason = " ".join(str(error).split("\n")[:2]) or type(error).__name__
        raise CheckpointError(str(folder), f"cannot be loaded ({reason})", "give a whole DiT") from error
    if scheduler.config.prediction_type != "epsilon":
        raise CheckpointError(
            str(folder / "scheduler"),
            f"prediction_type is {scheduler.config.prediction_type}",
            "give a model that predicts epsilon",
        )
    for problem in ("missing_keys", "unexpected_keys"):
        if report[problem]:
            tensor = sorted(report[problem])[0]
            raise CheckpointError(
                str(folder), f"{problem.replace('_', ' ')}: {tensor}", "give the weights that belong to its config.json"
            )
    sha256 = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return DiT(transformer.float(), scheduler, name, sha256)


LOADERS: dict[str, Loader] = {"digits-dit": _load_dit}
