"""A batch of scans through a model: masks or classes, and the index of what was done."""
