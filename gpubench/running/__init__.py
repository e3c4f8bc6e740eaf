"""A run of `gpubench.score`: from the user's arguments to a result and its files."""
