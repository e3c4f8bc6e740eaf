"""igraph's compiled module, and the random numbers that it asks for."""

from __future__ import annotations

import sys
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

import numpy as np


@cache
def igraph_core() -> Any:
    """The compiled module of igraph.

    The package around it imports matplotlib for its drawings, which takes longer than the communities of 50,000 cells.
    A later `import igraph` finds the same compiled module.
    """
    name = "igraph._igraph"
    if name in sys.modules:
        return sys.modules[name]
    package = find_spec("igraph")
    compiled = package and PathFinder.find_spec(name, package.submodule_search_locations)
    if not (compiled and compiled.loader):
        raise ModuleNotFoundError("igraph, which finds Leiden communities, is not installed; pip install igraph")
    module = module_from_spec(compiled)
    sys.modules[name] = module  # where the package looks for it: a second one would refuse to be
    compiled.loader.exec_module(module)
    return module


class IgraphRandom:
    """The random numbers that igraph asks for, from one seeded NumPy generator."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)

    def getrandbits(self, k: int) -> int:
        """K random bits."""
        return int(self._random.tomaxint()) & ((1 << k) - 1)

    def randint(self, a: int, b: int) -> int:
        """A number from a to b, both included."""
        return int(self._random.randint(a, b + 1))

    def random(self) -> float:
        """A number from 0 to 1, without 1."""
        return float(self._random.random())

    def gauss(self, mean: float, deviation: float) -> float:
        """A number of a normal distribution."""
        return float(self._random.normal(mean, deviation))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._random, name)
