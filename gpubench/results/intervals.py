"""Half widths of 95% intervals by Student's t."""

from __future__ import annotations

import math


def student_t_95(freedom: float | None) -> float:
    """Return the 97.5% quantile of Student's t.

    Parameters
    ----------
    freedom : degrees of freedom; None for so many that it is normal

    Examples
    --------
    >>> round(student_t_95(4), 2), round(student_t_95(None), 2)
    (2.78, 1.96)
    """
    from scipy.special import ndtri, stdtrit

    return float(ndtri(0.975) if freedom is None or math.isinf(freedom) else stdtrit(freedom, 0.975))


def half_width(stderr: float, freedom: float | None) -> float:
    """Return half of the 95% interval of a value.

    Parameters
    ----------
    stderr : its standard error
    freedom : its degrees of freedom; None for very many
    """
    return student_t_95(freedom) * stderr


def half_width_of_difference(first: tuple[float, float | None], other: tuple[float, float | None]) -> float:
    r"""Return half of the 95% interval of the difference of two independent values.

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
