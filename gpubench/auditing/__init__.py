"""Check predictions of perturbation effects, and the real data, before they are scored."""
