"""Fine-tuning and linear probes as the loop sees them, and their accuracy."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, distributed, nn

from mto.config.parts import FinetuneAugment
from mto.data.device.pixels import Pixels
from mto.methods.base import average_
from mto.methods.features import pooled
from mto.names import Memory
from mto.training.compiled import Compiled
from mto.training.contract import Moment, Trainable
from mto.training.distributed import average_buffers_, world_size
from mto.training.optim import AUTOCAST, Precision

Hits = list[dict[str, Tensor]]


def hits(logits: Tensor, label: Tensor, suffix: str = "") -> dict[str, Tensor]:
    """Counts, of (B, C) logits for (B,) labels, those right at the first and within the first five guesses."""
    ranked = logits.topk(min(5, logits.shape[1])).indices == label[:, None]
    return {f"top1{suffix}": ranked[:, 0].sum(), f"top5{suffix}": ranked.any(1).sum()}


class Accuracy:
    """Percent of the counts that a model's predictions report, exact over ranks that hold unequal shares."""

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}

    def process(self, data_samples: Hits, data_batch: Any = None) -> None:
        for name, count in data_samples[0].items():
            self.counts[name] = self.counts.get(name, 0) + count

    def evaluate(self, size: int) -> dict[str, float]:
        for count in self.counts.values() if world_size() > 1 else ():
            distributed.all_reduce(count)
        metrics = {name: 100.0 * int(count) / size for name, count in self.counts.items()}
        self.counts = {}
        return metrics


class _Classification(Trainable, nn.Module):
    """Logits by name; the loss and the hits of each.

    Args:
        pixels: what normalises the loader's images; by default they are as they are, in units of 255 grey levels.
    """

    def __init__(self, precision: Precision, pixels: Pixels | None) -> None:
        super().__init__()
        self.data_preprocessor = pixels or Pixels()
        self.autocast_dtype = AUTOCAST[precision]

    def logits(self, image: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def predict(self, image: Tensor, label: Tensor) -> Hits:
        enabled = self.autocast_dtype is not None
        with torch.autocast(image.device.type, self.autocast_dtype, enabled=enabled):
            logits = self.logits(image)
        return [{k: v for suffix, value in logits.items() for k, v in hits(value.float(), label, suffix).items()}]


class FineTuned(_Classification):
    """A classifier with timm's mixup and cutmix, and if asked a running average of its weights.

    Args:
        net: image -> (B, classes) logits.
        augment: a fine-tuning job's ``data.augment``: mixup, cutmix, mixup_prob, mixup_switch_prob, smoothing.
        ema_decay: of the averaged copy; None: no copy.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int,
        augment: FinetuneAugment,
        ema_decay: float | None = None,
        precision: Precision = "fp32",
        pixels: Pixels | None = None,
    ) -> None:
        super().__init__(precision, pixels)
        self.net = net
        self.smoothing = augment.smoothing
        self.mixup = None
        if augment.mixup > 0 or augment.cutmix > 0:
            from timm.data.mixup import Mixup

            self.mixup = Mixup(
                mixup_alpha=augment.mixup,
                cutmix_alpha=augment.cutmix,
                prob=augment.mixup_prob,
                switch_prob=augment.mixup_switch_prob,
                label_smoothing=self.smoothing,
                num_classes=num_classes,
            )
        self.loss: Callable[..., Tensor] = self.cross_entropy
        self.ema_decay = ema_decay
        self.ema = copy.deepcopy(net).eval().requires_grad_(False) if ema_decay is not None else None

    def forward(self, image: Tensor, label: Tensor, mode: Literal["loss", "predict"] = "loss") -> Any:
        if mode == "predict":
            return self.predict(image, label)
        if self.mixup is None:
            return {"loss": self.loss(image, label, self.smoothing)}
        return {"loss": self.loss(*self.mixup(image, label))}  # mixed labels already carry the smoothing

    def cross_entropy(self, image: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(self.net(image).float(), target, label_smoothing=smoothing)

    def compile_step(self, memory: Memory = "fast") -> None:
        """Compiles the training pass; validation, whose last batch is smaller, stays eager."""
        self.loss = Compiled(self.cross_entropy, memory=memory)

    def logits(self, image: Tensor) -> dict[str, Tensor]:
        return {"": self.net(image)} | ({} if self.ema is None else {"_ema": self.ema(image)})

    def after_step(self, now: Moment) -> None:
        """Averages: ema <- decay * ema + (1 - decay) * net (timm's ModelEma, BootMAE's fine-tuning)."""
        if self.ema is not None and self.ema_decay is not None:
            average_(self.ema.parameters(), self.net.parameters(), self.ema_decay)

    def train(self, mode: bool = True) -> "FineTuned":
        super().train(mode)
        if self.ema is not None:
            self.ema.eval()
        return self


class Probe(nn.Module):
    """BatchNorm without affine part (optional), then a linear layer (MAE:main_linprobe.py:212-222)."""

    def __init__(self, features: int, num_classes: int, *, batch_norm: bool, std: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features, affine=False, eps=1e-6) if batch_norm else nn.Identity()
        self.linear = nn.Linear(features, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


class LinearProbe(_Classification):
    """Linear heads on a frozen encoder, one for each layer asked for, trained together.

    The heads share nothing, so the sum of their losses trains each as if alone.

    Args:
        encoder: timm ViT or Beit; stays in eval mode.
        feature: ``cls``, ``mean`` of the patch tokens, or both side by side (BEiT's protocol).
        layers: 1-based blocks whose outputs are probed; with several, scores are named ``top1_layer<l>``.
        norm: True: the encoder's final norm on the tokens; "fresh": a parameter-free LayerNorm, eps 1e-6, on the pooled
            feature (BootMAE:main_linprobe.py:186-221); False: none.
        batch_norm: standardise features by the batch's statistics.
        std: of the heads' truncated normal initialisation.
    """

    def __init__(
        self,
        encoder: VisionTransformer | Beit,
        *,
        num_classes: int,
        feature: Literal["cls", "mean", "cls_mean"],
        layers: Sequence[int],
        norm: bool | Literal["fresh"],
        batch_norm: bool,
        std: float,
        precision: Precision = "fp32",
        pixels: Pixels | None = None,
    ) -> None:
        super().__init__(precision, pixels)
        self.encoder = encoder.requires_grad_(False).eval()
        self.feature = feature
        self.layers = sorted(layers)
        self.norm = norm
        self.loss: Callable[..., Tensor] = self.cross_entropy
        features = encoder.embed_dim * (2 if feature == "cls_mean" else 1)
        self.heads = nn.ModuleList(Probe(features, num_classes, batch_norm=batch_norm, std=std) for _ in self.layers)

    def after_epoch(self) -> None:
        """Gives every rank one and the same batch norm statistics, their mean: a validation is of one model."""
        average_buffers_(self)

    def train(self, mode: bool = True) -> "LinearProbe":
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def features(self, image: Tensor) -> list[Tensor]:
        """Returns one (B, F) feature for each layer."""
        return pooled(self.encoder, image, self.layers, self.feature, self.norm)

    def forward(self, image: Tensor, label: Tensor, mode: Literal["loss", "predict"] = "loss") -> Any:
        if mode == "predict":
            return self.predict(image, label)
        return {"loss": self.loss(image, label)}

    def cross_entropy(self, image: Tensor, label: Tensor) -> Tensor:
        losses = [F.cross_entropy(value.float(), label) for value in self.logits(image).values()]
        return torch.stack(losses).sum()

    def compile_step(self, memory: Memory = "fast") -> None:
        """Compiles the training pass; validation, whose last batch is smaller, stays eager."""
        self.loss = Compiled(self.cross_entropy, memory=memory)

    def logits(self, image: Tensor) -> dict[str, Tensor]:
        names = [f"_layer{layer}" for layer in self.layers] if len(self.layers) > 1 else [""]
        features = self.features(image)
        with torch.autocast(image.device.type, enabled=False):  # heads in float32 (BEiT:run_linear_eval.py:240)
            return {name: head(x) for name, head, x in zip(names, self.heads, features, strict=True)}
