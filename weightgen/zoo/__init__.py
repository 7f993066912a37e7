"""Parameters fitted to many tasks, the targets to learn from."""
