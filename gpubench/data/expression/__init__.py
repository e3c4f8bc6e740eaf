"""Expression matrices: normalisation, variable genes, PCA, and the baselines computed from them."""
