"""Networks that denoise parameter tokens; one file each."""
