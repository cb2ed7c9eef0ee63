"""DiT (arXiv 2212.09748) on diffusers' weights, with its attention and MLP branches opened up as units."""

from __future__ import annotations

import copy
import sys
from functools import cache
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_ray.models.base import CacheableTransformer, UnitHandler, units_of, unpatchify
from l2c_ray.models.checkpoints import digest, read_config, read_module, read_scheduler
from l2c_ray.models.layout import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DiTTransformer2DModel


class DiT(CacheableTransformer):
    """Evaluates a `DiTTransformer2DModel` block by block so that single branches can be left out.

    With `compute_all` the result is that of diffusers' own forward pass: bit for bit, but for the smallest widths,
    where a part of a matrix product may be rounded otherwise than the whole.
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

    def forward(self, sample: Tensor, timestep: Tensor, labels: Tensor, handler: UnitHandler) -> Tensor:
        hidden = self.transformer.pos_embed(sample)
        dtype = hidden.dtype

        @cache
        def conditioning(embedder: nn.Module) -> Tensor:
            return F.silu(embedder(timestep, labels, hidden_dtype=dtype))

        for index, block in enumerate(self.transformer.transformer_blocks):
            hidden = _block(block, 2 * index, hidden, conditioning(block.norm1.emb), handler)
        return self._output(hidden, timestep, labels)

    def _output(self, hidden: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        model = self.transformer
        conditioning = model.transformer_blocks[0].norm1.emb(timestep, labels, hidden_dtype=hidden.dtype)
        shift, scale = model.proj_out_1(F.silu(conditioning)).unsqueeze(1).chunk(2, dim=2)
        tokens = model.proj_out_2(model.norm_out(hidden) * (1 + scale) + shift)
        _, height, width = self.image_shape
        return unpatchify(tokens, model.out_channels, model.patch_size, (height, width))

    def save(self, folder: Path) -> None:
        for block in self.transformer.transformer_blocks:
            # No file holds one tensor under several names.
            block.norm1.emb = copy.deepcopy(block.norm1.emb)
        self.transformer.half().save_pretrained(folder / WEIGHTS.parent)
        self.scheduler.save_pretrained(folder / "scheduler")


def _block(block: Any, first_unit: int, hidden: Tensor, conditioning: Tensor, handler: UnitHandler) -> Tensor:
    """The block's output, as `hidden` [batch, tokens, width]; `conditioning` is [batch, width]."""

    def modulation(first: int, count: int) -> tuple[Tensor, ...]:
        """`count` modulation vectors [batch, 1, width] from number `first` of six: shift, scale, gate; twice."""
        linear = block.norm1.linear
        rows = slice(first * linear.in_features, (first + count) * linear.in_features)
        made = F.linear(conditioning, linear.weight[rows], linear.bias[rows])
        return made.unsqueeze(1).chunk(count, dim=2)

    def gated(unit: int, first: int, norm: nn.Module, layers: nn.Module, hidden: Tensor) -> Tensor:
        def compute() -> Tensor:
            # Skipped with the unit: for one image, to fetch their weights takes a few percent of the unit's time.
            shift, scale = modulation(first, 2)
            computed: Tensor = layers(norm(hidden) * (1 + scale) + shift)
            return computed

        (gate,) = modulation(first + 2, 1)
        return gate * handler(unit, compute) + hidden

    hidden = gated(first_unit, 0, block.norm1.norm, block.attn1, hidden)
    return gated(first_unit + 1, 3, block.norm3, block.ff, hidden)


def share_embedder(transformer: DiTTransformer2DModel) -> None:
    """Gives every block the embedder of the first one, which then runs once for all of them."""
    for block in transformer.transformer_blocks:
        block.norm1.emb = transformer.transformer_blocks[0].norm1.emb


def _embedders_are_equal(transformer: DiTTransformer2DModel) -> bool:
    """True for conversions of the authors' checkpoints, whose models have a single embedder."""
    first, *others = [block.norm1.emb.state_dict() for block in transformer.transformer_blocks]
    return all(torch.equal(tensor, other[name]) for other in others for name, tensor in first.items())


@cache
def transformer_class() -> type[DiTTransformer2DModel]:
    """Diffusers' class, from its own file: its package imports a hundred other models first, and SciPy for some."""
    name = "diffusers.models.transformers.dit_transformer_2d"
    if name not in sys.modules:
        models = cast(ModuleSpec, find_spec("diffusers.models")).submodule_search_locations
        file = Path(cast(list[str], models)[0], "transformers", "dit_transformer_2d.py")
        spec = cast(ModuleSpec, spec_from_file_location(name, file))
        module = module_from_spec(spec)
        cast(Loader, spec.loader).exec_module(module)
        # The package uses this class too from here on.
        sys.modules[name] = module
    return cast("type[DiTTransformer2DModel]", sys.modules[name].DiTTransformer2DModel)


def load_folder(name: str, folder: Path) -> DiT:
    """The model in a folder of diffusers' layout (transformer/, scheduler/).

    Raises:
        CheckpointError: a file is missing, truncated, or holds other tensors than the model has.
    """
    sha256 = digest(folder / WEIGHTS)
    transformer = read_module(transformer_class(), (folder / WEIGHTS).parent)
    if _embedders_are_equal(transformer):
        share_embedder(transformer)
    return DiT(transformer, read_scheduler(folder), name, sha256)


def build_like(folder: Path, name: str) -> DiT:
    """A model with the sizes in the folder's config.json and random weights."""
    kind = transformer_class()
    return DiT(kind.from_config(read_config(folder / CONFIG)), read_scheduler(folder), name, None)
