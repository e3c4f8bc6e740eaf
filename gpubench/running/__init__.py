"""One run: from the user's arguments to a result and its files."""
