"""Perturbation datasets: predictions, and the truth they are compared with."""
