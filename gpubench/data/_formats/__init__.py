"""Readers of array files, AnnData stores and containers."""
