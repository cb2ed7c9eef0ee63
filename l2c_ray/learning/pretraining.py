"""Trains a small class-conditional DiT from scratch, so that everything else has a real model to work on."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor, nn

from l2c_ray.config.pretraining import PretrainingConfig
from l2c_ray.learning.state import pack, unpack

_EMA = "ema."


class Pretrainer:
    """Noise-prediction training (arXiv 2006.11239, algorithm 1) with label dropout and an average of the weights.

    Step i draws its images, timesteps and noise from a generator seeded with (seed, i), so a run that was cut
    off and resumed is the run that was not.
    """

    def __init__(self, config: PretrainingConfig, scheduler: DDIMScheduler, images: Tensor, labels: Tensor) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.step_index = 0
        self.recent_loss = 1.0
        """Exponential average of the loss over about 100 steps."""
        self._scheduler = scheduler
        self._images, self._labels = images, labels
        self._model = build_transformer(config, images.shape[1], images.shape[2], int(labels.max()) + 1)
        self._ema = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=0.0, weight_decay=config.weight_decay)

    def step(self) -> None:
        """One optimizer step on the mean squared error of the predicted noise."""
        config, number = self.config, self.step_index
        draw = torch.Generator().manual_seed(config.seed * config.steps + number)
        # Label dropout draws from torch's global generator.
        torch.manual_seed(config.seed * config.steps + number)
        chosen = torch.randint(len(self._images), (config.batch_size,), generator=draw)
        timesteps = torch.randint(self._scheduler.config.num_train_timesteps, (config.batch_size,), generator=draw)
        clean = self._images[chosen]
        noise = torch.randn(clean.shape, generator=draw)
        noisy = self._scheduler.add_noise(clean, noise, timesteps)
        predicted = self._model(noisy, timesteps, self._labels[chosen]).sample
        loss = F.mse_loss(predicted, noise)
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * _warmup_then_cosine(number, config.warmup_steps, config.steps)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._average_weights()
        self.step_index += 1
        self.recent_loss += (loss.item() - self.recent_loss) / 100

    def average(self) -> DiTTransformer2DModel:
        """The model with averaged weights, in evaluation mode."""
        model = DiTTransformer2DModel.from_config(self._model.config)
        model.load_state_dict(self._ema)
        return model.eval()

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        tensors = pack(self._model, self._optimizer)
        tensors.update({_EMA + name: tensor for name, tensor in self._ema.items()})
        tensors["step"] = torch.tensor(self.step_index)
        tensors["recent_loss"] = torch.tensor(self.recent_loss, dtype=torch.float64)
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        unpack(tensors, self._model, self._optimizer)
        self._ema = {name: tensors[_EMA + name].clone() for name in self._ema}
        self.step_index = int(tensors["step"])
        self.recent_loss = float(tensors["recent_loss"])

    @torch.no_grad()
    def _average_weights(self) -> None:
        # A short memory at first: the average must not remember the random start.
        decay = min(self.config.ema_decay, (1 + self.step_index) / (10 + self.step_index))
        for name, tensor in self._model.state_dict().items():
            self._ema[name].lerp_(tensor, 1 - decay)


def build_transformer(
    config: PretrainingConfig, channels: int, image_size: int, num_classes: int
) -> DiTTransformer2DModel:
    """A DiT whose blocks start as the identity (adaLN-zero) and whose output starts at zero."""
    model = DiTTransformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=channels,
        num_layers=config.depth,
        sample_size=image_size,
        patch_size=config.patch_size,
        num_embeds_ada_norm=num_classes,
        norm_eps=1e-6,
    )
    for block in model.transformer_blocks:
        _zero(block.norm1.linear)
    _zero(model.proj_out_1)
    _zero(model.proj_out_2)
    return model.train()


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _warmup_then_cosine(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
