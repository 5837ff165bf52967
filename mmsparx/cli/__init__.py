"""The commands of `mmsparx`: arguments and endings. What a command does is in `engine`, `analysis` and others.

A module a command. Each is imported at every start, by `--help` too, and has to start where torch is broken or missing:
it imports what it needs when it runs.
"""
