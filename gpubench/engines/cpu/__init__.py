"""The CPU engine: compiled tiles, NumPy, igraph and scikit-learn."""
