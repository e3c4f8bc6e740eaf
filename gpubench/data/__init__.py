"""Data in: embeddings as rows that are read block by block, columns as codes or numbers."""

from gpubench.data.baseline import Baseline, expression_baseline, pca_baseline
from gpubench.data.categorical import CategoricalColumn
from gpubench.data.columns import as_numeric, encode_labels
from gpubench.data.digest import fingerprint
from gpubench.data.finite import FiniteCheck
from gpubench.data.loading import load_anndata
from gpubench.data.matrix import Rows, as_rows
from gpubench.data.messages import close_matches
from gpubench.data.perturbation import PerturbationData, read_perturbation
from gpubench.data.perturbation_prepare import prepare_perturbation
from gpubench.data.perturbation_truth import Criteria
from gpubench.data.reading import has_embedding, read, read_labels, read_matrix, split_name
from gpubench.data.rows import DeviceRows, StackedRows, read_rows
from gpubench.data.species import read_species

__all__ = [
    "Baseline",
    "CategoricalColumn",
    "Criteria",
    "DeviceRows",
    "FiniteCheck",
    "PerturbationData",
    "Rows",
    "StackedRows",
    "as_numeric",
    "as_rows",
    "close_matches",
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
