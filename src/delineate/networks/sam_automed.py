"""SAM without prompts, ``(B, C, H, W) -> (B, outputs, H, W)``, in 2D.

SAM-AutoMed (Sun et al. 2024): SAM's image encoder with adapters, and in place of the prompt encoder
a network on the image itself that makes the prompts, of the build of MobileNetV3-small (Howard et
al. 2019, arXiv:1905.02244). As in SAM (Kirillov et al. 2023) there is a dense prompt, a map that is
added to the features, and sparse ones: a point to leave out, a point to take in and two corners of
a box, here soft maxima of learned maps. SAM's two-way decoder then reads one mask a class, by a
token of the class instead of SAM's mask tokens. What the paper leaves open is as in SAM.

With ``preset: vit_b`` the weights of a public SAM checkpoint fit: ``_sam.load_sam``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _sam as sam

PAPER = "Sun et al. 2024, doi:10.1186/s12880-024-01401-6; Kirillov et al. 2023, arXiv:2304.02643"
KIND = "segmenter"
SMALL = {"dim": 24, "depth": 2, "neck": 16, "adapter": 6, "window": 2}
#: What takes weights of the original program, see ``_transfer``.
load_pretrained = sam.load_sam
HEADS = 8
POINTS = 4

#: Howard et al. 2019, table 2: kernel, expanded channels, channels, squeeze, hard swish, stride.
_ROWS = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


@dataclass(frozen=True)
class Config(sam.EncoderConfig):
    """Shape of SAM-AutoMed."""

    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance or batch, in the prompt generator"}
    )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return sam.resolve(config).patch


def build(config: Config, channels: int, outputs: int) -> SamAutoMed:
    """SAM-AutoMed with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    return SamAutoMed(config, channels, outputs)


class Squeeze(nn.Module):
    """Gate on channels by their mean (squeeze and excitation with a hard sigmoid)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        less = max(8, width // 4)
        self.gate = nn.Sequential(
            nn.Conv2d(width, less, 1), nn.ReLU(), nn.Conv2d(less, width, 1), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H, W)``."""
        output: Tensor = x * self.gate(x.mean((2, 3), keepdim=True))
        return output


class Inverted(nn.Module):
    """MobileNetV3's block: widen, filter each channel by itself, squeeze, narrow."""

    def __init__(
        self, before: int, row: tuple[int, int, int, bool, bool, int], stride: int, norm: str
    ) -> None:
        super().__init__()
        kernel, wide, after, squeeze, swish, _ = row
        act = nn.Hardswish if swish else nn.ReLU
        self.residual = before == after and stride == 1
        self.branch = nn.Sequential(
            *([nn.Conv2d(before, wide, 1), blocks.norm(2, wide, norm), act()]
              if wide != before else []),
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide),
            blocks.norm(2, wide, norm),
            act(),
            *([Squeeze(wide)] if squeeze else []),
            nn.Conv2d(wide, after, 1),
            blocks.norm(2, after, norm),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, H, W) -> (B, after, H/stride, W/stride)``."""
        output: Tensor = self.branch(x)
        return x + output if self.residual else output


class Positions(nn.Module):
    """Random Fourier features of places in [0, 1]², as SAM has them; a buffer, not trained."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, dim // 2))

    def forward(self, places: Tensor) -> Tensor:
        """``(..., 2)`` as (column, row) -> ``(..., dim)``."""
        matrix = self.get_buffer("positional_encoding_gaussian_matrix")
        # no matrix product, here and where places are made: mixed precision would round them
        angle = 2 * math.pi * ((2 * places - 1)[..., None] * matrix).sum(-2)
        return torch.cat([angle.sin(), angle.cos()], -1)


class PromptGenerator(nn.Module):
    """Prompts from the image alone, in the place of SAM's prompt encoder."""

    def __init__(self, channels: int, neck: int, patch: int, norm: str) -> None:
        super().__init__()
        before, left = 16, patch // 2
        layers: list[nn.Module] = [
            nn.Conv2d(channels, before, 3, 2, 1), blocks.norm(2, before, norm), nn.Hardswish()
        ]  # fmt: skip
        for row in _ROWS:
            stride = min(row[-1], left)  # none once a voxel is as large as a token
            left //= stride
            layers.append(Inverted(before, row, stride, norm))
            before = row[2]
        self.features = nn.Sequential(*layers)
        self.dense = nn.Conv2d(before, neck, 1)
        self.where = nn.Conv2d(before, POINTS, 1)
        self.content = nn.Conv2d(before, neck, 1)
        # named as SAM's: no mask given; points to leave out and take in, corners of a box
        self.no_mask_embed = nn.Embedding(1, neck)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, neck) for _ in range(POINTS))
        self.pe_layer = Positions(neck)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Dense prompt ``(B, h w, neck)``, sparse ``(B, 4, neck)``, places ``(h w, neck)``."""
        features = self.features(x)
        grid = centres(features.shape[2], features.shape[3], x.device)
        dense = self.dense(features).flatten(2).mT + self.no_mask_embed.weight
        share = self.where(features).flatten(2).float().softmax(-1)  # (B, 4, h w)
        content = share @ self.content(features).flatten(2).float().mT
        kinds = torch.cat([kind.get_parameter("weight") for kind in self.point_embeddings])
        places = (share[..., None] * grid).sum(2)  # (B, 4, 2)
        return dense, self.pe_layer(places) + kinds + content, self.pe_layer(grid)


def centres(h: int, w: int, device: torch.device) -> Tensor:
    """Centres of a grid's cells as (column, row) in [0, 1], ``(h w, 2)``."""
    row = (torch.arange(h, device=device) + 0.5) / h
    column = (torch.arange(w, device=device) + 0.5) / w
    return torch.stack([column.expand(h, w), row[:, None].expand(h, w)], -1).flatten(0, 1)


class CrossAttention(nn.Module):
    """Attention of queries to keys, ``(B, N, dim)`` and ``(B, M, dim) -> (B, N, dim)``."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.v_proj, self.out_proj = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What each query finds."""
        parts = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out_proj(attended)  # type: ignore[no-any-return]


class TwoWayBlock(nn.Module):
    """Tokens look at each other and at the image, then the image at the tokens."""

    def __init__(self, dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = CrossAttention(dim, dim)
        self.cross_attn_token_to_image = CrossAttention(dim, dim // 2)
        self.cross_attn_image_to_token = CrossAttention(dim, dim // 2)
        self.mlp = sam.Mlp(dim, 8 * dim, nn.ReLU())
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.norm3, self.norm4 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, image: Tensor, names: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, N, dim)`` and image ``(B, h w, dim)``, both with what was found."""
        if self.first:  # the tokens are still their own names
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            named = tokens + names
            tokens = self.norm1(tokens + self.self_attn(named, named, tokens))
        placed = image + places
        attended = self.cross_attn_token_to_image(tokens + names, placed, image)
        tokens = self.norm2(tokens + attended)
        tokens = self.norm3(tokens + self.mlp(tokens))
        attended = self.cross_attn_image_to_token(placed, tokens + names, tokens)
        return tokens, self.norm4(image + attended)


class TwoWay(nn.Module):
    """SAM's two-way transformer with two layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(dim, first=i == 0) for i in range(2))
        self.final_attn_token_to_image = CrossAttention(dim, dim // 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, names: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, N, dim)`` and image ``(B, h w, dim)`` after they saw each other."""
        tokens = names
        for layer in self.layers:
            tokens, image = layer(tokens, image, names, places)
        attended = self.final_attn_token_to_image(tokens + names, image + places, image)
        return self.norm_final_attn(tokens + attended), image


class ClassMlps(nn.Module):
    """An MLP of three layers a class; all of them in one tensor, whose first axis is the class."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        pairs = ((dim, dim), (dim, dim), (dim, dim // 8))
        self.weights = nn.ParameterList(torch.empty(outputs, n, m) for n, m in pairs)
        self.biases = nn.ParameterList(torch.zeros(outputs, m) for _, m in pairs)
        for weight, (n, m) in zip(self.weights, pairs, strict=True):
            limit = math.sqrt(6 / (n + m))  # Xavier
            nn.init.uniform_(weight, -limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, outputs, dim) -> (B, outputs, dim // 8)``."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.einsum("bon,onm->bom", x if i == 0 else x.relu(), weight) + bias
        return x


class MaskDecoder(nn.Module):
    """One mask a class at four times the resolution of the features."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.class_tokens = nn.Parameter(torch.empty(outputs, dim))
        self.transformer = TwoWay(dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, 2),
            sam.ChannelNorm(dim // 4, 1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, 2),
            nn.GELU(),
        )
        self.class_mlps = ClassMlps(dim, outputs)

    def forward(self, image: Tensor, sparse: Tensor, places: Tensor) -> Tensor:
        """Features ``(B, dim, h, w)`` -> logits ``(B, outputs, 4h, 4w)``."""
        size, outputs = image.shape[2:], len(self.class_tokens)
        names = torch.cat([self.class_tokens.expand(len(image), -1, -1), sparse], 1)
        tokens, attended = self.transformer(names, image.flatten(2).mT, places)
        fine = self.output_upscaling(attended.mT.unflatten(2, size))
        return torch.einsum("bod,bdhw->bohw", self.class_mlps(tokens[:, :outputs]), fine)


class SamAutoMed(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        shape = sam.resolve(config)
        self.image_encoder = sam.Encoder(config, channels)
        self.prompt_encoder = PromptGenerator(channels, shape.neck, shape.patch, config.norm)
        self.mask_decoder = MaskDecoder(shape.neck, outputs)
        sam.initialise(self.prompt_encoder)
        sam.initialise(self.mask_decoder)
        nn.init.normal_(self.mask_decoder.class_tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs, H, W)``.

        Raises:
            ConfigError: A side is no multiple of the patch, or the image is a single patch; the
                nearest size is named.
        """
        patch = divisor(self.config)
        blocks.require_multiple(x.shape[2:], patch)
        if all(n == patch for n in x.shape[2:]):
            raise ConfigError(
                f"expected more than one patch, got {tuple(x.shape[2:])}",
                fix=f"pad to {(2 * patch,) * 2}",
                code="size",
            )
        features = self.image_encoder(x)
        dense, sparse, places = self.prompt_encoder(x)
        image = features + dense.mT.unflatten(2, features.shape[2:])
        masks = self.mask_decoder(image, sparse, places)
        return F.interpolate(masks, x.shape[2:], mode="bilinear")
