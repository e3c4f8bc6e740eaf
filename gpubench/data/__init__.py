"""Read embeddings as matrices that can be read in blocks of rows, and columns as label codes or numbers."""

from gpubench.core.errors import close_matches
from gpubench.data.columns import CategoricalColumn, as_numeric, encode_labels
from gpubench.data.digest import fingerprint
from gpubench.data.expression import Baseline, expression_baseline, pca_baseline
from gpubench.data.matrices import DeviceCsrRows, DeviceRows, FiniteCheck, Rows, StackedRows, as_rows, read_rows
from gpubench.data.perturbation.predictions import PerturbationData, read_perturbation
from gpubench.data.perturbation.prepare import prepare_perturbation
from gpubench.data.perturbation.truth import Criteria
from gpubench.data.read import (
    column_names,
    embedding_names,
    has_embedding,
    load_anndata,
    read,
    read_labels,
    read_matrix,
    split_name,
)
from gpubench.data.species import read_species

__all__ = [
    "Baseline",
    "CategoricalColumn",
    "Criteria",
    "DeviceCsrRows",
    "DeviceRows",
    "FiniteCheck",
    "PerturbationData",
    "Rows",
    "StackedRows",
    "as_numeric",
    "as_rows",
    "close_matches",
    "column_names",
    "embedding_names",
    "encode_labels",
    "expression_baseline",
    "fingerprint",
    "has_embedding",
    "load_anndata",
    "pca_baseline",
    "prepare_perturbation",
    "read",
    "read_labels",
    "read_matrix",
    "read_perturbation",
    "read_rows",
    "read_species",
    "split_name",
]
