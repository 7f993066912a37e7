"""Recipes that come with weightgen: YAML files, one run each."""
