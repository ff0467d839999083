"""How two subspaces lie to each other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[Any]
"""Orthonormal columns ``[dimensions, vectors]``."""


def angles(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    """Principal angles between two subspaces, rising, in degrees."""
    import scipy.linalg  # here: commands that compare no subspace need not wait for it

    found: NDArray[np.float64] = scipy.linalg.subspace_angles(first.astype(np.float64), second.astype(np.float64))
    return np.rad2deg(found[::-1])


def overlap(first: Vectors, second: Vectors) -> float:
    """Share of one subspace that lies in the other: mean squared cosine of the principal angles.

    ``|U_1^T U_2|_F^2 / k`` of two matrices with k orthonormal columns, in [0, 1]: the similarity of Hu et al., 2022,
    arXiv:2106.09685, section 7.2. Of two random subspaces of R^d it is k / d on average.
    """
    return float(np.mean(np.cos(np.deg2rad(angles(first, second))) ** 2))
