"""From the tensor names of the public DiT checkpoints (facebookresearch/DiT) to a diffusers model."""

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor

from l2c_ray.models.dit import DiT

_WHOLE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_OF_A_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_EMBEDDERS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}


def load_public_dit(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DiT:
    """The model of `settings` (sizes, as the golden JSON files have them) with `tensors` in the public naming."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=settings["num_heads"],
        attention_head_dim=settings["hidden_size"] // settings["num_heads"],
        in_channels=settings["in_channels"],
        out_channels=settings["in_channels"] * (2 if settings["learn_sigma"] else 1),
        num_layers=settings["depth"],
        sample_size=settings["input_size"],
        patch_size=settings["patch_size"],
        num_embeds_ada_norm=settings["num_classes"],
        norm_eps=1e-6,
    )
    transformer.load_state_dict(_rename(settings["depth"], tensors))
    for block in transformer.transformer_blocks:
        # DiT's frequencies end one step before 1/10000, diffusers' default ends there.
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    scheduler = DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    return DiT(transformer.eval().requires_grad_(False), scheduler, "golden", "0" * 64)


def _rename(depth: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        stem, _, parameter = name.rpartition(".")
        if stem in _WHOLE:
            renamed[f"{_WHOLE[stem]}.{parameter}"] = tensor
        elif stem in _EMBEDDERS:
            # In diffusers every block has a copy of the embedders.
            for block in range(depth):
                renamed[f"transformer_blocks.{block}.norm1.emb.{_EMBEDDERS[stem]}.{parameter}"] = tensor
        elif stem.startswith("blocks."):
            _, block_index, layer = stem.split(".", 2)
            renamed |= _rename_in_block(f"transformer_blocks.{block_index}", layer, parameter, tensor)
    return renamed


def _rename_in_block(block: str, layer: str, parameter: str, tensor: Tensor) -> dict[str, Tensor]:
    if layer == "attn.qkv":
        parts = zip(("to_q", "to_k", "to_v"), tensor.chunk(3), strict=True)
        return {f"{block}.attn1.{part}.{parameter}": chunk for part, chunk in parts}
    return {f"{block}.{_OF_A_BLOCK[layer]}.{parameter}": tensor}
