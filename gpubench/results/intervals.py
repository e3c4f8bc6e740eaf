"""How far an interval of 95% reaches to each side, by Student's t."""

from __future__ import annotations

import math


def student_t_95(freedom: float | None) -> float:
    """The 97.5% quantile of Student's t: 2.78 with 4 degrees of freedom, 1.96 with so many (None) that it is normal."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(0.975) if freedom is None or math.isinf(freedom) else stdtrit(freedom, 0.975))


def half_width(stderr: float, freedom: float | None) -> float:
    """Half of the interval of 95% of a value.

    Parameters
    ----------
    stderr : its standard error
    freedom : degrees of freedom of that; None where they are very many
    """
    return student_t_95(freedom) * stderr


def half_width_of_difference(first: tuple[float, float | None], other: tuple[float, float | None]) -> float:
    r"""Half of the interval of 95% of the difference of two values, as if they were independent.

    .. math:: t_\nu \sqrt{s_1^2 + s_2^2}, \qquad \nu = \frac{(s_1^2 + s_2^2)^2}{s_1^4 / \nu_1 + s_2^4 / \nu_2}

    Parameters
    ----------
    first, other : standard error s and its degrees of freedom ν of each

    References
    ----------
    Welch (1947), doi:10.1093/biomet/34.1-2.28.
    """
    squares = [stderr**2 for stderr, _ in (first, other)]
    shares = [square**2 / nu for square, (_, nu) in zip(squares, (first, other), strict=True) if nu is not None]
    freedom = sum(squares) ** 2 / sum(shares) if any(shares) else None
    return half_width(math.sqrt(sum(squares)), freedom)
