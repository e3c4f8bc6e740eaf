"""Scores of an embedding while its model is trained; see `gpubench.Monitor`."""
