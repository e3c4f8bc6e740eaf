"""Algorithms that run on any array module; every engine shares them."""
