"""One file a loss."""
