"""Types, errors, files and bookkeeping that every other package uses."""
