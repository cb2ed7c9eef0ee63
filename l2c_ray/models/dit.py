"""DiT (arXiv 2212.09748) on diffusers' weights, with its attention and MLP branches opened up as units."""

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor

from l2c_ray.errors import CheckpointError
from l2c_ray.models.base import Branch, CacheableTransformer, units_of, unpatchify
from l2c_ray.models.checkpoints import WEIGHTS, digest, read_scheduler, unloadable


class DiT(CacheableTransformer):
    """Evaluates a `DiTTransformer2DModel` block by block so that single branches can be left out.

    With `compute_all` the result is that of diffusers' own forward pass, bit for bit.
    """

    family = "dit"
    first_timestep = 0

    def __init__(
        self, transformer: DiTTransformer2DModel, scheduler: DDIMScheduler, name: str, weights_sha256: str | None
    ) -> None:
        super().__init__()
        config: Any = transformer.config
        self.transformer = transformer
        self.scheduler = scheduler
        self.name = name
        self.weights_sha256 = weights_sha256
        self.depth = config.num_layers
        self.units = units_of([f"blocks.{index}" for index in range(self.depth)])
        self.image_shape = (config.in_channels, config.sample_size, config.sample_size)
        self.num_classes = config.num_embeds_ada_norm
        self.null_label = self.num_classes

    def forward(self, sample: Tensor, timestep: Tensor, labels: Tensor, branch: Branch) -> Tensor:
        hidden = self.transformer.pos_embed(sample)
        for index, block in enumerate(self.transformer.transformer_blocks):
            hidden = self._block(block, 2 * index, hidden, timestep, labels, branch)
        return self._output(hidden, timestep, labels)

    def _block(
        self, block: Any, first_unit: int, hidden: Tensor, timestep: Tensor, labels: Tensor, branch: Branch
    ) -> Tensor:
        conditioning = block.norm1.emb(timestep, labels, hidden_dtype=hidden.dtype)
        modulation = block.norm1.linear(block.norm1.silu(conditioning)).unsqueeze(1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, dim=2)

        def attention() -> Tensor:
            attended: Tensor = block.attn1(block.norm1.norm(hidden) * (1 + scale_attn) + shift_attn)
            return attended

        hidden = gate_attn * branch(first_unit, attention) + hidden

        def mlp() -> Tensor:
            transformed: Tensor = block.ff(block.norm3(hidden) * (1 + scale_mlp) + shift_mlp)
            return transformed

        output: Tensor = gate_mlp * branch(first_unit + 1, mlp) + hidden
        return output

    def _output(self, hidden: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        model = self.transformer
        conditioning = model.transformer_blocks[0].norm1.emb(timestep, labels, hidden_dtype=hidden.dtype)
        shift, scale = model.proj_out_1(F.silu(conditioning)).unsqueeze(1).chunk(2, dim=2)
        tokens = model.proj_out_2(model.norm_out(hidden) * (1 + scale) + shift)
        _, height, width = self.image_shape
        return unpatchify(tokens, model.out_channels, model.patch_size, (height, width))

    def save(self, folder: Path) -> None:
        self.transformer.half().save_pretrained(folder / WEIGHTS.parent)
        self.scheduler.save_pretrained(folder / "scheduler")


def load_folder(name: str, folder: Path) -> DiT:
    """The model in a folder of diffusers' layout (transformer/, scheduler/).

    Raises:
        CheckpointError: a file is missing, truncated, or holds other tensors than the model has.
    """
    sha256 = digest(folder / WEIGHTS)
    for index in (folder / WEIGHTS).parent.glob("*.index.json"):
        # Diffusers would read the files that it names, whatever they are.
        raise CheckpointError(str(index), "names weights in several files", f"give them all in {WEIGHTS.name}")
    try:
        transformer, report = DiTTransformer2DModel.from_pretrained(
            folder,
            subfolder="transformer",
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:
        # Diffusers lets whatever a broken config leads to through: TypeError, ZeroDivisionError and the like.
        raise unloadable(folder, error) from error
    for problem in ("missing_keys", "unexpected_keys"):
        if report[problem]:
            tensor = sorted(report[problem])[0]
            raise CheckpointError(
                str(folder), f"{problem.replace('_', ' ')}: {tensor}", "give the weights that belong to its config.json"
            )
    return DiT(transformer, read_scheduler(folder), name, sha256)


def build_like(folder: Path, name: str) -> DiT:
    """A model of the sizes that the folder's config.json tells, with random weights."""
    config = DiTTransformer2DModel.load_config(folder, subfolder="transformer", local_files_only=True)
    return DiT(DiTTransformer2DModel.from_config(config), read_scheduler(folder), name, None)
