"""Pairs predictions with reference labels, scores them, and puts the figures into words."""
