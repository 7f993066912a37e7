"""Images with labels, and class splits."""
