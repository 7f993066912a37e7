"""Parameter vectors: layout, scale, symmetry."""
