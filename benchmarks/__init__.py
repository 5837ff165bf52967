"""Measurements of speed; see README.md. Run from the repository's root, as `python -m benchmarks.selective_scan`."""
