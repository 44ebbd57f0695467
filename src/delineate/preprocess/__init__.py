"""Image -> Image: every step recorded, and invertible where it changes geometry."""
