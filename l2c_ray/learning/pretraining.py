"""Training of the small class-conditional transformers that ship in the package, from scratch."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_ray.config.pretraining import PretrainingConfig
from l2c_ray.data import digits
from l2c_ray.data.images import LabelledImages
from l2c_ray.errors import CheckpointError, ConfigError, LearningError
from l2c_ray.learning.state import pack, unpack
from l2c_ray.models.base import CacheableTransformer, compute_all
from l2c_ray.models.dit import DiT, transformer_class
from l2c_ray.models.uvit import UViT, UViTShape, noise_scheduler
from l2c_ray.storage.files import home, make_writable
from l2c_ray.storage.tensors import read_tensors, write_tensors

_EMA = "ema."


@dataclass(frozen=True)
class Pretrained:
    """Result of a pretraining."""

    model: CacheableTransformer
    """The model with averaged weights, in evaluation mode."""
    loss: float
    """The loss, averaged over the last steps."""


def pretrain(
    config: PretrainingConfig,
    on_step: Callable[[int, float], None],
    on_start: Callable[[int], None] = lambda done: None,
) -> Pretrained:
    """The model trained on the digits, resumed from the last checkpoint under the home folder.

    Args:
        on_step: called after each step with the number of steps done and the loss averaged over the last ones.
        on_start: called once with the number of steps that earlier sessions did.

    Raises:
        ConfigError: the patches do not fill an image, or another config wrote the checkpoint.
        CheckpointError: the checkpoint is not whole.
        StorageError: checkpoints cannot be written.
        LearningError: the loss or the weights are not finite.
    """
    trainer = Pretrainer(config, digits.load())
    checkpoint = make_writable(home() / "pretraining" / config.name) / "checkpoint.safetensors"
    if checkpoint.exists():
        trainer.resume(checkpoint)
    on_start(trainer.step_index)
    while trainer.step_index < config.steps:
        trainer.step()
        on_step(trainer.step_index, trainer.recent_loss)
        if trainer.step_index % config.checkpoint_every == 0 or trainer.step_index == config.steps:
            trainer.save(checkpoint)
    return Pretrained(trainer.average(), trainer.recent_loss)


class Pretrainer:
    """Noise-prediction training (arXiv 2006.11239, algorithm 1) with label dropout and an average of the weights.

    Step i draws its images, timesteps and noise from a generator seeded with (seed, i), so that a resumed run equals
    an uninterrupted one.
    """

    def __init__(self, config: PretrainingConfig, data: LabelledImages) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.step_index = 0
        self.recent_loss = 1.0
        """Exponential average of the loss over about 100 steps."""
        self._data = data
        self._model = build_model(config).train()
        self._scheduler = self._model.scheduler
        self._ema = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=0.0, weight_decay=config.weight_decay)

    def step(self) -> None:
        """One optimizer step on the mean squared error of the predicted noise.

        Raises:
            LearningError: the loss or the averaged weights are not finite.
        """
        config, number = self.config, self.step_index
        draw = torch.Generator().manual_seed(config.seed * config.steps + number)
        # Label dropout draws from torch's global generator.
        torch.manual_seed(config.seed * config.steps + number)
        chosen = torch.randint(len(self._data), (config.batch_size,), generator=draw)
        timesteps = torch.randint(self._scheduler.config.num_train_timesteps, (config.batch_size,), generator=draw)
        clean = self._data.images[chosen]
        noise = torch.randn(clean.shape, generator=draw)
        noisy = self._scheduler.add_noise(clean, noise, timesteps)
        times = timesteps + self._model.first_timestep
        predicted = self._model(noisy, times, self._data.labels[chosen], compute_all)
        loss = F.mse_loss(predicted, noise)
        self._require_finite("loss", loss)
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * _warmup_then_cosine(number, config.warmup_steps, config.steps)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._average_weights()
        for name, tensor in self._ema.items():
            # Weights are written in half precision.
            self._require_finite(name, tensor.half())
        self.step_index += 1
        self.recent_loss += (loss.item() - self.recent_loss) / 100

    def average(self) -> CacheableTransformer:
        """The model with averaged weights, in evaluation mode."""
        model = build_model(self.config)
        model.load_state_dict(self._ema)
        return model.eval()

    def save(self, checkpoint: Path) -> None:
        """Writes everything that a resumed run needs, with its config."""
        tensors = pack(self._model, self._optimizer)
        tensors.update({_EMA + name: tensor for name, tensor in self._ema.items()})
        tensors["step"] = torch.tensor(self.step_index)
        tensors["recent_loss"] = torch.tensor(self.recent_loss, dtype=torch.float64)
        tensors["config"] = torch.tensor(list(self.config.model_dump_json().encode()), dtype=torch.uint8)
        write_tensors(checkpoint, tensors)

    def resume(self, checkpoint: Path) -> None:
        """Restores what `save` wrote.

        Raises:
            ConfigError: another config wrote it; names the first different key.
            CheckpointError: it is not a whole checkpoint of a pretraining.
        """
        tensors = read_tensors(checkpoint)
        try:
            self._require_same_config(json.loads(bytes(tensors["config"].tolist())), checkpoint)
            unpack(tensors, self._model, self._optimizer)
            self._ema = {name: tensors[_EMA + name].clone() for name in self._ema}
            self.step_index = int(tensors["step"])
            self.recent_loss = float(tensors["recent_loss"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                str(checkpoint), f"is no whole checkpoint ({reason})", "remove it to begin anew"
            ) from error

    def _require_same_config(self, began: dict[str, object], checkpoint: Path) -> None:
        for key, value in self.config.model_dump(exclude={"checkpoint_every"}).items():
            if began[key] != value:
                raise ConfigError(
                    key,
                    f"is {value}, but the training in {checkpoint} began with {began[key]}",
                    "take that value, or remove the file to begin anew",
                )

    def _require_finite(self, name: str, tensor: Tensor) -> None:
        if not tensor.isfinite().all():
            raise LearningError(name, f"is not finite at step {self.step_index}", "lower learning_rate")

    @torch.no_grad()
    def _average_weights(self) -> None:
        # The decay grows from 0.1, so that the average forgets the random initial weights.
        decay = min(self.config.ema_decay, (1 + self.step_index) / (10 + self.step_index))
        for name, tensor in self._model.state_dict().items():
            self._ema[name].lerp_(tensor, 1 - decay)


def build_model(config: PretrainingConfig) -> CacheableTransformer:
    """An untrained model for the digits.

    Raises:
        ConfigError: the patches do not fill an image.
    """
    _, image_size, _ = digits.IMAGE_SHAPE
    if image_size % config.patch_size:
        raise ConfigError(
            "patch_size", f"{config.patch_size} does not divide the {image_size} pixels of an image", "take a divisor"
        )
    return _BUILDERS[config.family](config)


def _build_dit(config: PretrainingConfig) -> CacheableTransformer:
    """A DiT whose blocks start as the identity (adaLN-zero) and whose output starts at zero."""
    from diffusers import DDIMScheduler

    channels, image_size, _ = digits.IMAGE_SHAPE
    transformer = transformer_class()(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=channels,
        num_layers=config.depth,
        sample_size=image_size,
        patch_size=config.patch_size,
        num_embeds_ada_norm=digits.NUM_CLASSES,
        norm_eps=1e-6,
    )
    for block in transformer.transformer_blocks:
        _zero(block.norm1.linear)
    _zero(transformer.proj_out_1)
    _zero(transformer.proj_out_2)
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    return DiT(transformer, scheduler, config.name, None)


def _build_uvit(config: PretrainingConfig) -> CacheableTransformer:
    channels, image_size, _ = digits.IMAGE_SHAPE
    shape = UViTShape(
        depth=config.depth,
        width=config.heads * config.head_dim,
        heads=config.heads,
        image_size=image_size,
        channels=channels,
        patch_size=config.patch_size,
        num_classes=digits.NUM_CLASSES,
        label_dropout=0.1,
    )
    return UViT(shape, noise_scheduler(), config.name, None)


_BUILDERS = {DiT.family: _build_dit, UViT.family: _build_uvit}


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _warmup_then_cosine(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
