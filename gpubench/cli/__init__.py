"""The command line `gpubench`."""
