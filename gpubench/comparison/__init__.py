"""Comparison of results: differences of scores, and their intervals under resampling of cells or donors."""
