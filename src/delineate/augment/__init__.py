"""Batched tensor -> tensor augmentation; parameters are drawn apart from their use."""
