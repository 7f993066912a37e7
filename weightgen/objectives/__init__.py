"""What the denoiser is trained to do; one file each."""
