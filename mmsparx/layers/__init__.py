"""Layers of the networks: norms, stem, feed-forward, token mixers, aggregators."""
