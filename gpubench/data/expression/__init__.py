"""Expression matrices: normalisation, variable genes, PCA and the baselines made of them."""
