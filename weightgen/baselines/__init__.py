"""Rivals of the generator; one file each."""
