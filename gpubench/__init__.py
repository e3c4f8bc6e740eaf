"""gpubench: metrics for single-cell embeddings."""
