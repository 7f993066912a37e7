"""What the denoiser is told about an episode; one file each."""
