"""Data in: embeddings as rows that are read block by block, columns as codes or numbers."""

from gpubench.data.categorical import CategoricalColumn
from gpubench.data.columns import as_numeric, encode_labels
from gpubench.data.digest import fingerprint
from gpubench.data.finite import FiniteCheck
from gpubench.data.matrix import Rows, as_rows
from gpubench.data.messages import close_matches
from gpubench.data.reading import read
from gpubench.data.rows import StackedRows, read_rows
from gpubench.data.species import read_species

__all__ = [
    "CategoricalColumn",
    "FiniteCheck",
    "Rows",
    "StackedRows",
    "as_numeric",
    "as_rows",
    "close_matches",
    "encode_labels",
    "fingerprint",
    "read",
    "read_rows",
    "read_species",
]
