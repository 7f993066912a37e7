"""Recipe YAML to options to objects."""
