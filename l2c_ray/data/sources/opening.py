"""The image source that a config names."""

import os
from collections.abc import Mapping

from l2c_ray.config.encoding import EncodingConfig
from l2c_ray.data.sources.base import ImageFiles
from l2c_ray.data.sources.folder import ClassFolders
from l2c_ray.data.sources.parquet import ParquetImages
from l2c_ray.data.sources.parquet_check import Columns
from l2c_ray.data.sources.webdataset import TarImages
from l2c_ray.storage.opening import open_tree


def open_source(config: EncodingConfig, environment: Mapping[str, str] = os.environ) -> ImageFiles:
    """The source of the images; nothing is read yet.

    Args:
        environment: as for `open_store`.
    """
    source, latents = config.source, config.latents
    tree = open_tree(source.images, environment)
    if source.kind == "folder":
        return ClassFolders(tree, source.files, source.classes, latents.shard_size, latents.seed)
    if source.kind == "parquet":
        columns = Columns(source.image_column, source.label_column)
        return ParquetImages(tree, source.files, source.classes, latents.shard_size, columns)
    return TarImages(tree, source.files, source.classes)
