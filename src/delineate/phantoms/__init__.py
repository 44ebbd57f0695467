"""Synthetic cohorts with exact truth."""
