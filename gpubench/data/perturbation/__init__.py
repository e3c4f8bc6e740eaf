"""Read perturbation datasets: predictions, and the ground truth that they are compared with."""
