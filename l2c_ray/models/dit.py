"""DiT (arXiv 2212.09748) on diffusers' weights, with its attention and MLP branches opened up as units."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor

from l2c_ray.models.base import Branch, CacheableTransformer, Unit


class DiT(CacheableTransformer):
    """Evaluates a `DiTTransformer2DModel` block by block so that single branches can be left out.

    With `compute_all` the result is that of diffusers' own forward pass, bit for bit.
    """

    family = "dit"

    def __init__(
        self, transformer: DiTTransformer2DModel, scheduler: DDIMScheduler, name: str, weights_sha256: str
    ) -> None:
        super().__init__()
        config: Any = transformer.config
        self.transformer = transformer
        self.scheduler = scheduler
        self.name = name
        self.weights_sha256 = weights_sha256
        self.depth = config.num_layers
        self.units = tuple(Unit(block, kind) for block in range(self.depth) for kind in ("attention", "mlp"))
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
        return self._unpatchify(tokens, height // model.patch_size, width // model.patch_size)

    def _unpatchify(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """[batch, rows * columns, patch * patch * channels] -> [batch, channels, rows * patch, columns * patch]."""
        patch = self.transformer.patch_size
        grid = tokens.reshape(-1, rows, columns, patch, patch, self.transformer.out_channels)
        return torch.einsum("nhwpqc->nchpwq", grid).flatten(4, 5).flatten(2, 3)
