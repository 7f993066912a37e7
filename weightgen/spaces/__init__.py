"""How generated values become tokens and come back; one file each."""
