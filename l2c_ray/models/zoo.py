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

# What the solvers rely on; a model that was trained or is meant to be sampled otherwise would give wrong images.
_SCHEDULER = {
    "prediction_type": "epsilon",
    "clip_sample": False,
    "thresholding": False,
    "set_alpha_to_one": True,
    "rescale_betas_zero_snr": False,
}


def load(name: str, checkpoint: Path | None = None, device: str = "cpu") -> CacheableTransformer:
    """The model `name`, frozen, in evaluation mode and float32.

    Args:
        checkpoint: a folder in diffusers' layout (transformer/, scheduler/); the embedded weights unless given.

    Raises:
        ConfigError: the zoo has no model of this name.
        CheckpointError: a file is missing, truncated, or holds other tensors than the model has; or the scheduler
            asks for another way of sampling than the solvers have.
    """
    require_known(name, "model.name")
    return LOADERS[name](name, checkpoint or embedded(name)).requires_grad_(False).eval().to(device)


def require_known(name: str, key: str) -> None:
    """Refuses a name that is not in the zoo; `key` is where it was given.

    Raises:
        ConfigError: the zoo has no model of this name.
    """
    if name not in LOADERS:
        raise ConfigError(key, f"there is no model {name!r}", f"take one of {', '.join(LOADERS)}")


def embedded(name: str) -> Path:
    """The folder of the weights that ship in the package."""
    return Path(str(files("l2c_ray.models"))) / "embedded" / name


def _load_dit(name: str, folder: Path) -> CacheableTransformer:
    sha256 = _digest_of_weights(folder)
    try:
        transformer, report = DiTTransformer2DModel.from_pretrained(
            folder,
            subfolder="transformer",
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
        scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    except Exception as error:
        # Diffusers lets whatever a broken config leads to through: TypeError, ZeroDivisionError and the like.
        reason = " ".join(str(error).split("\n")[:2]) or type(error).__name__
        raise CheckpointError(str(folder), f"cannot be loaded ({reason})", "give a whole DiT") from error
    for key, wanted in _SCHEDULER.items():
        if scheduler.config[key] != wanted:
            raise CheckpointError(
                str(folder / "scheduler"), f"{key} is {scheduler.config[key]}", f"give a model with {key} {wanted}"
            )
    for problem in ("missing_keys", "unexpected_keys"):
        if report[problem]:
            tensor = sorted(report[problem])[0]
            raise CheckpointError(
                str(folder), f"{problem.replace('_', ' ')}: {tensor}", "give the weights that belong to its config.json"
            )
    return DiT(transformer.float(), scheduler, name, sha256)


def _digest_of_weights(folder: Path) -> str:
    path = folder / WEIGHTS
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        index = next(path.parent.glob("*.index.json"), None)
    except OSError as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error.strerror})", "give a folder in diffusers' layout"
        ) from error
    if index:
        # Diffusers would read the files that it names, whatever they are.
        raise CheckpointError(str(index), "names weights in several files", f"give them all in {WEIGHTS.name}")
    return sha256


LOADERS: dict[str, Loader] = {"digits-dit": _load_dit}
