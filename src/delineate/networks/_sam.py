"""The image encoder of SAM, ``(B, C, H, W) -> (B, neck, H/patch, W/patch)``, and its weights.

A plain vision transformer with decomposed relative positions and attention in windows, with some
blocks that look everywhere (Li et al. 2022, arXiv:2203.16527), as the Segment Anything Model uses
it (Kirillov et al. 2023, arXiv:2304.02643). Modules are named as in SAM's public checkpoints, so
that ``load_sam`` can fill the encoder (and whatever else of a network carries SAM's names) from
one. Between norm and MLP of each block sits an adapter, where SAM-Med2D has its own (Cheng et al.
2023, arXiv:2308.16184); it is a bottleneck MLP that begins close to the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

ENCODER = "image_encoder."


@dataclass(frozen=True)
class Shape:
    """What decides whether weights fit; the fields are explained in ``EncoderConfig``."""

    patch: int
    image_size: int
    dim: int
    depth: int
    heads: int
    window: int
    global_blocks: tuple[int, ...]
    neck: int
    adapter: int


#: ``small`` is for training from nothing on a CPU; the others are those of SAM's checkpoints.
PRESETS = {
    "small": Shape(8, 128, 192, 6, 3, 0, (), 128, 48),
    "vit_b": Shape(16, 1024, 768, 12, 12, 14, (2, 5, 8, 11), 256, 192),
    "vit_l": Shape(16, 1024, 1024, 24, 16, 14, (5, 11, 17, 23), 256, 256),
    "vit_h": Shape(16, 1024, 1280, 32, 16, 14, (7, 15, 23, 31), 256, 320),
}


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of SAM's image encoder: a preset, and what is to differ from it."""

    ndim: int = field(default=2, metadata={"help": "spatial dimensions: 2, SAM sees flat images"})
    preset: str = field(
        default="small",
        metadata={"help": "small, or vit_b, vit_l, vit_h to take SAM's weights; decides on all "
                  "that is left open below"},
    )  # fmt: skip
    patch: int | None = field(default=None, metadata={"help": "pixels of a token's side"})
    image_size: int | None = field(
        default=None, metadata={"help": "image side at which positions are learned"}
    )
    dim: int | None = field(default=None, metadata={"help": "channels of a token"})
    depth: int | None = field(default=None, metadata={"help": "transformer blocks"})
    heads: int | None = field(default=None, metadata={"help": "attention heads; divides dim"})
    window: int | None = field(
        default=None, metadata={"help": "tokens of an attention window's side; 0: look everywhere"}
    )
    global_blocks: tuple[int, ...] | None = field(
        default=None, metadata={"help": "blocks that look everywhere in spite of a window"}
    )
    neck: int | None = field(default=None, metadata={"help": "channels of the encoder's output"})
    adapter: int | None = field(
        default=None, metadata={"help": "channels in the middle of an adapter; 0: no adapters"}
    )
    freeze_encoder: bool = field(
        default=False,
        metadata={"help": "train only the encoder's adapters and what follows; for loaded weights"},
    )

    def __post_init__(self) -> None:
        if self.ndim != 2:
            raise ConfigError(
                f"expected ndim 2, got {self.ndim}: SAM sees flat images",
                fix="choose swin_unetr or unet for volumes",
            )
        if self.preset not in PRESETS:
            raise ConfigError(f"expected preset {', '.join(PRESETS)}, got {self.preset!r}")
        shape = resolve(self)
        lowest = {"patch": 4, "dim": 1, "depth": 1, "heads": 1, "window": 0, "neck": 16}
        lowest |= {"adapter": 0, "image_size": shape.patch}
        for name, low in lowest.items():
            if getattr(shape, name) < low:
                raise ConfigError(f"expected {name} >= {low}, got {getattr(shape, name)}")
        if shape.patch not in (4, 8, 16, 32) or shape.image_size % shape.patch:
            raise ConfigError(
                "expected a patch of 4, 8, 16 or 32 pixels that divides image_size, "
                f"got {shape.patch} and {shape.image_size}"
            )
        if shape.dim % shape.heads or shape.neck % 16:
            raise ConfigError(
                "expected heads that divide dim, and a neck that is a multiple of 16, "
                f"got heads {shape.heads}, dim {shape.dim}, neck {shape.neck}"
            )
        if any(not 0 <= i < shape.depth for i in shape.global_blocks):
            raise ConfigError(
                f"expected global_blocks from 0 to {shape.depth - 1}, got {shape.global_blocks}"
            )

    def complete(self, ndim: int) -> Self:
        """What was left open, as the preset has it."""
        return replace(self, **vars(resolve(self)))


def resolve(config: EncoderConfig) -> Shape:
    """The preset with the config's own values put in."""
    settings = {f.name: getattr(config, f.name) for f in fields(Shape)}
    return replace(PRESETS[config.preset], **{k: v for k, v in settings.items() if v is not None})


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of ``(B, C, H, W)``, each pixel by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H, W)``."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Mlp(nn.Module):
    """Two linear layers with an activation between them, on the last axis."""

    def __init__(self, dim: int, hidden: int, act: nn.Module) -> None:
        super().__init__()
        self.lin1, self.lin2, self.act = nn.Linear(dim, hidden), nn.Linear(hidden, dim), act

    def forward(self, x: Tensor) -> Tensor:
        """``(..., dim) -> (..., dim)``."""
        output: Tensor = self.lin2(self.act(self.lin1(x)))
        return output


def relative(table: Tensor, n: int) -> Tensor:
    """Vectors ``(n, n, d)`` of query minus key from ``(L, d)``, resized if L is not ``2n - 1``."""
    if len(table) != 2 * n - 1:
        table = F.interpolate(table.T[None], 2 * n - 1, mode="linear")[0].T
    place = torch.arange(n, device=table.device)
    return table[place[:, None] - place[None] + n - 1]


class Attention(nn.Module):
    """Self-attention of a grid of tokens; a query also meets the row and column offsets."""

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, h, w, dim) -> (B, h, w, dim)``."""
        h, w = x.shape[1:3]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 4, 1, 2, 5)
        rows = torch.einsum("bnhwd,hkd->bnhwk", q, relative(self.rel_pos_h, h))
        columns = torch.einsum("bnhwd,wkd->bnhwk", q, relative(self.rel_pos_w, w))
        bias = (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)
        q, k, v = (part.flatten(2, 3) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        tokens: Tensor = self.proj(attended.transpose(1, 2).reshape(x.shape))
        return tokens


def in_windows(attention: nn.Module, x: Tensor, side: int) -> Tensor:
    """Attention within squares of ``side`` tokens; as in SAM, zeros fill the last ones up."""
    b, h, w, dim = x.shape
    x = F.pad(x, (0, 0, 0, -w % side, 0, -h % side))
    rows, columns = x.shape[1] // side, x.shape[2] // side
    x = x.reshape(b, rows, side, columns, side, dim).transpose(2, 3)
    x = attention(x.reshape(-1, side, side, dim)).reshape(b, rows, columns, side, side, dim)
    return x.transpose(2, 3).reshape(b, rows * side, columns * side, dim)[:, :h, :w]


class Block(nn.Module):
    """Transformer block with norms first, and an adapter between the second norm and the MLP."""

    def __init__(self, shape: Shape, window: int) -> None:
        super().__init__()
        dim = shape.dim
        self.window = window
        self.norm1, self.norm2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.attn = Attention(dim, shape.heads, window or shape.image_size // shape.patch)
        self.mlp = Mlp(dim, 4 * dim, nn.GELU())
        self.adapter = Mlp(dim, shape.adapter, nn.GELU()) if shape.adapter else None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, h, w, dim) -> (B, h, w, dim)``."""
        y = self.norm1(x)
        x = x + (in_windows(self.attn, y, self.window) if self.window else self.attn(y))
        y = self.norm2(x)
        if self.adapter is not None:
            y = y + self.adapter(y)
        output: Tensor = x + self.mlp(y)
        return output


class Stem(nn.Module):
    """Image to tokens."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, h, w, dim)``."""
        tokens: Tensor = self.proj(x).movedim(1, -1)
        return tokens


class Encoder(nn.Module):
    """See the module's docstring. Any size that is a multiple of the patch works."""

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        super().__init__()
        self.shape = shape = resolve(config)
        side = shape.image_size // shape.patch
        self.patch_embed = Stem(channels, shape.dim, shape.patch)
        self.pos_embed = nn.Parameter(torch.empty(1, side, side, shape.dim))
        self.blocks = nn.ModuleList(
            Block(shape, 0 if i in shape.global_blocks else shape.window)
            for i in range(shape.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(shape.dim, shape.neck, 1, bias=False),
            ChannelNorm(shape.neck, 1e-6),
            nn.Conv2d(shape.neck, shape.neck, 3, padding=1, bias=False),
            ChannelNorm(shape.neck, 1e-6),
        )
        initialise(self)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith("adapter.lin2.weight"):
                nn.init.normal_(parameter, std=1e-3)  # not 0: gradient must reach lin1
            if config.freeze_encoder:
                parameter.requires_grad_(".adapter." in name)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, neck, H/patch, W/patch)``.

        Raises:
            ConfigError: A side is no multiple of the patch; the nearest size is named.
        """
        blocks.require_multiple(x.shape[2:], self.shape.patch)
        x = self.patch_embed(x)
        x = x + resize_positions(self.pos_embed, x.shape[1:3])
        for block in self.blocks:
            x = block(x)
        features: Tensor = self.neck(x.movedim(-1, 1))
        return features


def resize_positions(table: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Position vectors ``(1, h, w, dim)`` for a grid of ``size`` tokens, by linear resampling."""
    if table.shape[1:3] == tuple(size):
        return table
    grid = F.interpolate(table.movedim(-1, 1), tuple(size), mode="bilinear")
    return grid.movedim(1, -1)


def initialise(module: nn.Module) -> None:
    """Xavier for linear layers, as transformers have it; He for convolutions; zero biases."""
    blocks.initialise(module)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)


def load_sam(network: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Fill a network from the tensors of a public SAM checkpoint; its other parts stay fresh.

    Everything in the network that has a name of the checkpoint is filled: the image encoder, and in
    ``sam_automed`` the decoder's transformer and upscaling and the parts of the prompt encoder that
    are kept. Position tables of another length are resized. A stem for C channels gets the mean
    of the file's three times ``3 / C``: C equal channels then give what three equal ones gave.

    Args:
        network: With the encoder at ``image_encoder``; changed in place, or not at all.
        tensors: Name to tensor as in ``sam_vit_b_01ec64.pth``; the caller reads the file.

    Returns:
        One line a tensor, which begins with ``loaded``, ``resized``, ``left out`` (of the file) or
        ``fresh`` (of the network).

    Raises:
        ConfigError: The file has not the whole encoder, or one of another shape.
    """
    state, fitted, report = network.state_dict(), dict[str, Tensor](), list[str]()
    for name, parameter in state.items():
        tensor_given = tensors.get(name)
        fitting = None if tensor_given is None else _fit(name, tensor_given, parameter.shape)
        if fitting is not None and tensor_given is not None:
            fitted[name] = fitting
            same_shape = tensor_given.shape == parameter.shape
            report.append(
                f"loaded {name}"
                if same_shape
                else f"resized {name}: {_change(tensor_given, parameter)}"
            )
        elif name.startswith(ENCODER) and ".adapter." not in name:
            size_given = "none" if tensor_given is None else _size(tensor_given)
            raise ConfigError(
                f"expected a tensor {name!r} of {_size(parameter)}, got {size_given}",
                fix="give the file of the SAM model that the setting 'preset' names",
                code="sam-weights",
            )
        else:
            report.append(f"fresh {name}")
    report += [f"left out {name}" for name in tensors if name not in fitted]
    with torch.no_grad():
        for name, tensor in fitted.items():
            state[name].copy_(tensor)
    return report


def _fit(name: str, tensor: Tensor, size: torch.Size) -> Tensor | None:
    """A tensor of the checkpoint at the network's size; None if it cannot be made to fit."""
    if tensor.shape == size:
        return tensor
    if tensor.ndim != len(size) or not name.startswith(ENCODER):
        return None
    if name.endswith("pos_embed") and tensor.shape[-1] == size[-1]:
        return resize_positions(tensor.float(), (size[1], size[2]))
    if name.endswith(("rel_pos_h", "rel_pos_w")) and tensor.shape[1] == size[1]:
        return F.interpolate(tensor.float().T[None], size[0], mode="linear")[0].T
    stem = name.endswith("patch_embed.proj.weight")
    if stem and (tensor.shape[0], *tensor.shape[2:]) == (size[0], *size[2:]):
        return tensor.mean(1, keepdim=True).expand(size) * (tensor.shape[1] / size[1])
    return None


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _change(before: Tensor, after: Tensor) -> str:
    return f"{_size(before)} to {_size(after)}"
