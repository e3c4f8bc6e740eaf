"""Checks of a prediction of perturbations and of the real data before anything is scored."""
