"""Many images of one case, ``(B, K, F) -> (B, F')``: heads over features of slices or patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError


class AttentionPool(nn.Module):
    """Mean of instances, weighted by a gated attention, ``(B, K, F) -> (B, F)``.

    Ilse et al. 2018, arXiv:1802.04712, equation 9; equation 8 without the gate. The order of the
    instances does not matter, and their weights say which of them decided.

    Args:
        features: F.
        hidden: Features that the weights are made of.
        gated: Whether a sigmoid gates the tanh.
    """

    def __init__(self, features: int, hidden: int = 128, gated: bool = True) -> None:
        super().__init__()
        self.width = features
        self.value = nn.Linear(features, hidden)
        self.gate = nn.Linear(features, hidden) if gated else None
        self.score = nn.Linear(hidden, 1, bias=False)  # a softmax takes a bias away

    def weights(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Weights ``(B, K)`` that sum to 1; 0 where ``present`` ``(B, K)`` is false.

        A bag needs one instance that is present.
        """
        hidden = torch.tanh(self.value(x))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(x))
        score: Tensor = self.score(hidden).squeeze(2)
        if present is not None:
            score = score.masked_fill(~present, float("-inf"))
        return score.softmax(1)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """The weighted mean; instances that are not present count for nothing."""
        return (self.weights(x, present).unsqueeze(1) @ x).squeeze(1)


class GruPool(nn.Module):
    """What a recurrent network knows after all slices, read up and down, ``(B, K, F) -> (B, 2H)``.

    A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) in both directions. Slices are in
    their anatomical order, and all bags of a batch have as many of them.

    Args:
        features: F.
        hidden: H.
    """

    def __init__(self, features: int, hidden: int = 128) -> None:
        super().__init__()
        self.width = 2 * hidden
        self.gru = nn.GRU(features, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """The last state upwards beside the last state downwards."""
        return torch.cat(list(self.gru(x)[1]), 1)


def features(network: nn.Module, x: Tensor) -> Tensor:
    """Features that a classifier's logits are made from, ``(B, C, *S) -> (B, F)``.

    A classifier says them by its method ``embed``; of another one it is taken what goes into its
    last linear layer. Gradient passes, and the network's mode is left as it is.

    Raises:
        ConfigError: The network has no linear layer.
    """
    embed: Any = getattr(network, "embed", None)
    if embed is not None:
        embedding: Tensor = embed(x)
        return embedding
    inputs_of_linear: list[Tensor] = []
    hooks = [
        part.register_forward_pre_hook(lambda _, inputs: inputs_of_linear.append(inputs[0]))
        for part in network.modules()
        if isinstance(part, nn.Linear)
    ]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not inputs_of_linear:
        raise ConfigError(
            f"expected a classifier that ends in a linear layer, got {type(network).__name__}",
            where="network",
            fix="choose another classifier, for instance cnn",
            code="no-features",
        )
    return inputs_of_linear[-1].flatten(1)
