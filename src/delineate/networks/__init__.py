"""One file a network. The catalog finds them by file name.

Such a file holds:

- a docstring whose first line has shapes: ``(B, C, *S) -> (B, outputs, *S)``;
- ``PAPER``: who described it, and when;
- ``KIND``: ``"segmenter"``, ``"classifier"`` or ``"critic"``;
- ``Config``: a frozen dataclass with ``ndim`` and a help text for every field. ``width`` and
  ``levels`` follow from the data and the budget, where there are such fields;
- ``divisor(config) -> int``: what every spatial size must be a multiple of;
- ``build(config, channels, outputs) -> nn.Module``: with fresh weights, drawn from torch alone.

And, where it needs them:

- ``LEAST``: the smallest spatial size;
- ``derived(patch) -> dict``: settings that follow from the size of a patch;
- ``load_pretrained(network, tensors) -> list[str]``: takes weights of another program;
- ``score_map(x: (B, C', *S)) -> (B, K, *S)``, of a critic whose scores have a place, beside
  ``forward``: prediction writes it as a map, where a method has kept the critic.
"""
