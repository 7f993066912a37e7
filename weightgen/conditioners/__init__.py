"""What the denoiser is given about an episode; one file each."""
