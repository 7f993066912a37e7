"""Which tensors are generated; one file each."""
