"""Programs of a system's own environment: they import its packages, NumPy and their neighbours."""
