"""What the networks are made of: norms, stem, feed-forward, token mixers, aggregators."""
