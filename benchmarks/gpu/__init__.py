"""A quarter of an hour on a GPU: stages of known length, the most valuable first, each with a time limit of its own."""
