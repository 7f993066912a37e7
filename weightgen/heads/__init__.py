"""Heads on disk and at work."""
