"""Vector search over the releases that are loaded."""
