"""One run: split, prepare, plan, train, save."""
