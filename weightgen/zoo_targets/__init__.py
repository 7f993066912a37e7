"""What a generator learns from; one file each."""
