"""One plain ViT backbone for mmsegmentation and mmdetection: a pre-trained encoder with a feature pyramid.

The encoder is the one that was pre-trained (timm's blocks); what dense tasks add is here: another image size, relative
position bias, attention in windows, LayerScale, features of several blocks at strides 4, 8, 16 and 32 (at patch 16).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from safetensors.torch import load_file
from timm.layers import lecun_normal_
from torch import Tensor, nn

from mto.methods.encoder import DoesNotFit, build_encoder
from mto.methods.position import resize_absolute, sincos_2d
from mto.names import BASELINES
from mto.openmmlab.rel_pos import Grid, RelativePositionBias

#: Tokens from which on attention takes one image at a time: it fills a GPU, and the gradient of a bias, which torch's
#: fused kernel writes for every image before it adds them up, is as large as the image's attention map.
LARGE = 2048


class Block(nn.Module):
    """A timm block (ViT's or BEiT's) opened up, so that its attention may run in windows and under a bias.

    Args:
        block: the pre-trained block.
        init_values: LayerScale to add where the block has none; None adds none.
        bias: the block's own relative position bias, if it has one.
    """

    def __init__(self, block: Any, init_values: float | None, bias: RelativePositionBias | None) -> None:
        super().__init__()
        self.bias = bias
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2
        self.gamma_1, self.gamma_2 = getattr(block, "gamma_1", None), getattr(block, "gamma_2", None)
        if self.gamma_1 is None and init_values is not None:
            dim = self.norm1.weight.numel()
            self.gamma_1 = nn.Parameter(torch.full((dim,), init_values))
            self.gamma_2 = nn.Parameter(torch.full((dim,), init_values))

    def forward(self, x: Tensor, grid: Grid, bias: Tensor | None, window: int | None) -> Tensor:
        """Returns the tokens x (B, [1 +] h·w, D), as many as there were.

        Args:
            bias: on the logits, (1, heads, N, N) for the N tokens of the grid or of a window.
            window: side of the windows of attention; None for the whole grid.
        """
        return self._block(x, bias) if window is None else self._block_in_windows(x, grid, bias, window)

    def _block(self, x: Tensor, bias: Tensor | None) -> Tensor:
        tokens = self.norm1(x)
        # Both of timm's attentions take the additive bias second; scaled_dot_product_attention wants the tokens' dtype.
        bias = None if bias is None else bias.to(tokens.dtype)
        images = tokens.split(1) if tokens.shape[1] > LARGE else [tokens]
        y = torch.cat([self.attn(image, bias) for image in images])
        x = x + self.drop_path1(y if self.gamma_1 is None else self.gamma_1 * y)
        y = self.mlp(self.norm2(x))
        return x + self.drop_path2(y if self.gamma_2 is None else self.gamma_2 * y)

    def _block_in_windows(self, x: Tensor, grid: Grid, bias: Tensor | None, window: int) -> Tensor:
        """Runs the whole block on ``window`` x ``window`` windows, so that drop path drops windows, as MIMDet's does.

        A grid that does not divide is padded, and no token attends to the padding.
        """
        (b, _, d), (h, w) = x.shape, grid
        pad_h, pad_w = -h % window, -w % window
        rows, columns = (h + pad_h) // window, (w + pad_w) // window

        def split(x: Tensor) -> Tensor:  # (B, h, w, C) -> (B·windows, window², C)
            x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
            x = x.view(-1, rows, window, columns, window, x.shape[-1])
            return x.transpose(2, 3).reshape(-1, window * window, x.shape[-1])

        if pad_h or pad_w:
            real = split(x.new_ones(1, h, w, 1)).view(-1, 1, 1, window * window)
            # Less than a window of padding: every window has a real token, so no softmax is of -inf alone.
            closed = torch.zeros_like(real).masked_fill(real == 0, float("-inf")).repeat(b, 1, 1, 1)
            bias = closed if bias is None else bias + closed
        out = self._block(split(x.view(b, h, w, d)), bias)
        out = out.view(b, rows, columns, window, window, d).transpose(2, 3)
        return out.reshape(b, h + pad_h, w + pad_w, d)[:, :h, :w].reshape(b, h * w, d)


class Pyramid(nn.Sequential):
    """One level of the pyramid, from stride 1 (in patches) to 1/4, 1/2, 1 or 2.

    Args:
        dim: channels, kept.
        scale: 4 (deconvolution, norm, GELU, deconvolution), 2 (deconvolution), 1 (nothing) or 0.5 (max-pooling).
        norm: "batch" (MAEseg:backbone/mae.py:296-352; SyncBN over several GPUs) or "group" (32 groups,
            MIMDet:models/benchmarking.py, with its initialisation).
    """

    def __init__(self, dim: int, scale: float, norm: str) -> None:
        def up() -> nn.Module:
            return nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)

        normalise = nn.BatchNorm2d(dim) if norm == "batch" else nn.GroupNorm(math.gcd(32, dim), dim)
        layers: dict[float, list[nn.Module]] = {
            4: [up(), normalise, nn.GELU(), up()],
            2: [up()],
            1: [],
            0.5: [nn.MaxPool2d(2, ceil_mode=True)],
        }
        super().__init__(*layers[scale])
        if norm == "group":
            for layer in layers[scale]:
                if isinstance(layer, nn.ConvTranspose2d):
                    lecun_normal_(layer.weight)
                    nn.init.constant_(layer.get_parameter("bias"), 0.0)


@MODELS.register_module()  # mmengine's root registry: mmseg's and mmdet's both fall back to it
class PlainViT(nn.Module):
    """A pre-trained encoder as a backbone: images (B, 3, H, W) -> four maps (B, D, ·, ·) at 1/4, 1/2, 1, 2 patches.

    Args:
        encoder: keyword arguments of ``mto.methods.encoder.build_encoder`` at the pre-training image size, with
            ``baseline``. Its ``init_values``, where the pre-trained blocks have no LayerScale, adds one.
        weights: the pre-trained encoder's state, or the path of an encoder.safetensors; every key must be there and be
            used. None keeps the initialisation.
        init_cfg: the same in mmengine's words, ``{"type": "Pretrained", "checkpoint": PATH}``, instead of ``weights``.
        image_size: the largest image, in pixels.
        out_indices: the four blocks (from 0) whose outputs are used, without final norm and class token.
        norm: the pyramid's norm, see :class:`Pyramid`.
        relative: "block" (a table per block), "shared" (one for all windows, one for all global blocks) or "none".
            Tables start from the pre-trained shared table, where there is one, and else from zero; "block" resizes it
            by BEiT's interpolation, "shared" like an image.
        position: of encoders with an absolute one: "resized" (bicubic), or sine-cosine made anew for the grid,
            in the encoder's own order of axes ("own") or with the row in the first half of the channels ("row_first").
        class_token: whether the class token is kept inside the encoder. Windows cannot hold one.
        window_size: side of the attention windows, in patches; None for global attention in every block.
        global_blocks: blocks (from 0) with global attention nonetheless.
        init_values: LayerScale added to blocks that have none.
    """

    def __init__(
        self,
        *,
        encoder: dict[str, Any],
        weights: dict[str, Tensor] | str | Path | None = None,
        init_cfg: dict[str, Any] | None = None,
        image_size: int,
        out_indices: Sequence[int],
        norm: str,
        relative: str = "block",
        position: str = "resized",
        class_token: bool = True,
        window_size: int | None = None,
        global_blocks: Sequence[int] = (),
        init_values: float | None = None,
    ) -> None:
        super().__init__()
        if window_size is not None and class_token:
            raise ValueError("attention in windows has no place for a class token: class_token must be False")
        vit = build_encoder(**encoder)
        if init_cfg is not None:
            if weights is not None or init_cfg.get("type") != "Pretrained":
                raise ValueError("init_cfg: only {'type': 'Pretrained', 'checkpoint': PATH}, and only without weights")
            weights = init_cfg["checkpoint"]
        if isinstance(weights, str | Path):
            weights = load_file(weights)
        if weights is not None:
            try:
                vit.load_state_dict(weights, strict=True)
            except RuntimeError as error:
                reason = str(error).splitlines()[1].strip()
                raise DoesNotFit(
                    f"the pre-trained encoder does not fit: {reason} Check baseline, img_size, patch_size, embed_dim, "
                    "depth and init_values of `encoder`"
                ) from error
        self.patch_size: int = encoder["patch_size"]
        self.out_indices = tuple(out_indices)
        self.grid: Grid = (math.ceil(image_size / self.patch_size),) * 2
        depth, heads = len(vit.blocks), encoder["num_heads"]
        self.windows = [None if i in global_blocks else window_size for i in range(depth)]

        self.patch_embed = vit.patch_embed.proj
        self.cls_token = vit.cls_token if class_token else None
        self.pos_embed = None
        if vit.pos_embed is not None:  # fixed in pre-training, trainable from here on
            if position == "resized":
                table = resize_absolute(vit.pos_embed.data, self.grid)
            else:
                row_first = position == "row_first" or BASELINES[encoder["baseline"]].row_first
                table = sincos_2d(encoder["embed_dim"], self.grid, row_first=row_first)
            self.pos_embed = nn.Parameter(table if class_token else table[:, 1:])

        def bias_of(window: int | None) -> RelativePositionBias:
            bias = RelativePositionBias(self.grid if window is None else (window,) * 2, heads, class_token=class_token)
            if pretrained is not None:
                bias.load(pretrained.relative_position_bias_table.data, stretch=relative == "shared")
            return bias

        pretrained = getattr(vit, "rel_pos_bias", None)
        own = relative == "block"
        self.blocks = nn.ModuleList(
            Block(block, init_values, bias_of(window) if own else None)
            for block, window in zip(vit.blocks, self.windows, strict=True)
        )
        kinds = dict.fromkeys(self.windows) if relative == "shared" else ()
        self.biases = nn.ModuleDict({_kind(window): bias_of(window) for window in kinds})
        dim = encoder["embed_dim"]
        self.pyramid = nn.ModuleList(Pyramid(dim, scale, norm) for scale in (4, 2, 1, 0.5))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        p = self.patch_size
        images = F.pad(images, (0, -images.shape[3] % p, 0, -images.shape[2] % p))
        x = self.patch_embed(images)
        b, d, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(b, -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + self._part(self.pos_embed, (h, w))
        shared = {kind: _values(bias, (h, w), kind) for kind, bias in self.biases.items()}

        features = []
        for i, (block, window) in enumerate(zip(self.blocks, self.windows, strict=True)):
            kind = _kind(window)
            bias = shared.get(kind) if block.bias is None else _values(block.bias, (h, w), kind)
            x = block(x, (h, w), bias, window)
            if i in self.out_indices:
                tokens = x if self.cls_token is None else x[:, 1:]
                features.append(tokens.transpose(1, 2).reshape(b, d, h, w))
        return tuple(level(feature) for level, feature in zip(self.pyramid, features, strict=True))

    def _part(self, position: Tensor, grid: Grid) -> Tensor:
        """Returns the embedding of a grid at most as large as ours: its top left part, as if the image were padded."""
        (h, w), (max_h, max_w) = grid, self.grid
        if grid == self.grid:
            return position
        if h > max_h or w > max_w:
            raise ValueError(
                f"a grid of {h}x{w} tokens does not fit the positions of {max_h}x{max_w}; raise image_size"
            )
        first = position.shape[1] - max_h * max_w
        tokens = position[:, first:].unflatten(1, self.grid)[:, :h, :w].flatten(1, 2)
        return torch.cat([position[:, :first], tokens], dim=1)


def _kind(window: int | None) -> str:
    return "global" if window is None else "window"


def _values(bias: Any, grid: Grid, kind: str) -> Tensor:
    """Returns a `RelativePositionBias` over the whole grid or over one window: (1, heads, N, N), as kernels want it."""
    return bias(grid if kind == "global" else bias.grid)[None]
