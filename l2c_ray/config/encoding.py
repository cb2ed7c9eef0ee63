"""Settings of jobs/encode.py and `l2c encode`, and what latents say of how they were made."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from l2c_ray.config.base import Destination, Folder, JobConfig, Place, Section
from l2c_ray.config.learn import ClusterSection
from l2c_ray.schedule import Sha256
from l2c_ray.storage.trees import compiled_glob

SourceKind = Literal["folder", "parquet", "webdataset"]


def _glob(pattern: str) -> str:
    compiled_glob(pattern)
    return pattern


class SourceSection(Section):
    """Where the images are.

    A `folder` has one subfolder for each class, `parquet` files have a column of encoded images and one of labels,
    `webdataset` tars have pairs of a picture (`x.jpg`) and its label in digits (`x.cls`).
    """

    images: Place
    """The folder that holds the subfolders, the .parquet files or the .tar files, at any depth."""
    files: Annotated[str, Field(min_length=1), AfterValidator(_glob)] | None = None
    """A glob of those to read, by their names from `images` on: `*` stands for anything within a name, `**` for any
    folders, as in `train-*.parquet` or `**/train-*.tar`. Without it all are, if they belong to one split."""
    kind: SourceKind = "folder"
    classes: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Labels are 0..classes-1. Subfolders that are no numbers get theirs in the order of their names."""
    image_column: Annotated[str, Field(min_length=1)] = "image"
    """Column of Parquet files with the images: bytes, or structs with a field `bytes` as Hugging Face has them."""
    label_column: Annotated[str, Field(min_length=1)] = "label"


class LatentsSection(Section):
    """How latents are made, and where to."""

    storage: Destination
    """A run with the same settings goes on with what is there."""
    vae: Folder
    """A folder with diffusers' AutoencoderKL, that of the model which is to learn from the latents."""
    image_size: Annotated[int, Field(ge=1, le=4096)] = 256
    """Images are cropped to the square in their centre, of so many pixels in each direction."""
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    """Seed of the images' order, of mirroring and of draws from the autoencoder's posterior."""
    mirrored: bool = True
    """Half of the images, by a coin for each: the models and their routers are trained on both kinds."""
    shard_size: Annotated[int, Field(ge=1)] = 500
    """Images per object at most, of a folder or of a Parquet file. A tar becomes one object, whatever its size."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images that a worker encodes at a time."""
    skip_broken: bool = False
    """Leave images that cannot be read out and tell how many they are; otherwise the first one ends the run."""


class EncodingConfig(JobConfig):
    """Everything that determines a set of latents."""

    source: SourceSection
    latents: LatentsSection
    cluster: ClusterSection = ClusterSection()


class LatentSettings(Section):
    """How the latents at one address were made; they are all made alike."""

    format: Literal["l2c-latents/1"] = "l2c-latents/1"
    shards: Annotated[int, Field(ge=1)]
    channels: Annotated[int, Field(ge=1, le=1024)]
    size: Annotated[int, Field(ge=1, le=4096)]
    """Height and width of a latent."""
    classes: Annotated[int, Field(ge=1)]
    image_size: int
    mirrored: bool
    seed: int
    source_sha256: Sha256
    """Hash of the names and sizes of the source files, in order."""
    vae_sha256: Sha256
    scaling_factor: float
    shift_factor: float
