"""The `weightgen` command: parse, call the library once, print."""
