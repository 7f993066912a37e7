"""Building diffusers schedulers, and the noise-free one."""
