"""N-way K-shot problems drawn from features."""
