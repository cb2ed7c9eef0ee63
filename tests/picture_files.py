"""Real image files of a few pixels, the same ones for the same seed, in the layouts in which data sets are kept."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(seed: int, width: int = 20, height: int = 16, kind: str = "PNG") -> bytes:
    """Smooth colours, of which every pixel is different and no two seeds have the same."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def write_folder(folder: Path, counts: Mapping[str, int]) -> Path:
    """A subfolder for each class with so many pictures, whose seeds count on from 0."""
    seed = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index}.png").write_bytes(picture(seed))
            seed += 1
    return folder


def write_parquet(path: Path, pictures: Sequence[object], labels: Sequence[object], rows_in_a_group: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": list(pictures), "label": list(labels)}), path, row_group_size=rows_in_a_group)
    return path


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
