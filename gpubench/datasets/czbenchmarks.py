"""Translate the entries of cz-benchmarks' catalogues into those of gpubench."""

from __future__ import annotations

import re
from typing import Any

from gpubench.core.yaml_document import Value

TARGET = "_target_"
"""The key that only entries of cz-benchmarks have: the class that loads the dataset."""

_LABELED = "SingleCellLabeledDataset"
_PERTURBATION = "SingleCellPerturbationDataset"

_COMMON = ("path", "organism", "task_inputs_dir")
# Parameter of the class -> field of the entry, and the default of cz-benchmarks.
_FIELDS = {
    _LABELED: {"label_column_key": ("label", "cell_type")},
    _PERTURBATION: {"condition_key": ("condition", "condition"), "control_name": ("control", "ctrl")},
}

# gpubench supports only the defaults of cz-benchmarks for these parameters.
_FIXED: dict[str, tuple[Any, ...]] = {
    "de_gene_col": ("gene_id", "gene"),
    "de_metric_col": ("logfoldchange",),
    "de_pval_col": ("pval_adj",),
    "percent_genes_to_mask": (0.5,),
    "min_de_genes_to_mask": (5,),
    "pval_threshold": (1e-4,),
    "min_logfoldchange": (1.0,),
    "random_seed": (42,),
    "target_conditions_override": (None,),
}

_ORGANISMS = {
    "HUMAN": "homo_sapiens",
    "MOUSE": "mus_musculus",
    "TROPICAL_CLAWED_FROG": "xenopus_tropicalis",
    "AFRICAN_CLAWED_FROG": "xenopus_laevis",
    "ZEBRAFISH": "danio_rerio",
    "MOUSE_LEMUR": "microcebus_murinus",
    "WILD_BOAR": "sus_scrofa",
    "CRAB_EATING_MACAQUE": "macaca_fascicularis",
    "RHESUS_MACAQUE": "macaca_mulatta",
    "PLATYPUS": "ornithorhynchus_anatinus",
    "OPOSSUM": "monodelphis_domestica",
    "GORILLA": "gorilla_gorilla",
    "CHIMPANZEE": "pan_troglodytes",
    "MARMOSET": "callithrix_jacchus",
    "CHICKEN": "gallus_gallus",
    "RABBIT": "oryctolagus_cuniculus",
    "FRUIT_FLY": "drosophila_melanogaster",
    "RAT": "rattus_norvegicus",
    "NAKED_MOLE_RAT": "heterocephalus_glaber",
    "CAENORHABDITIS_ELEGANS": "caenorhabditis_elegans",
    "YEAST": "saccharomyces_cerevisiae",
    "MALARIA_PARASITE": "plasmodium_falciparum",
    "SEA_LAMPREY": "petromyzon_marinus",
    "FRESHWATER_SPONGE": "spongilla_lacustris",
    "CORAL": "stylophora_pistillata",
    "SEA_URCHIN": "lytechinus_variegatus",
}


def translate(value: Value) -> dict[str, Any]:
    """Return the fields of a `CatalogueEntry` for an entry of cz-benchmarks 0.15's datasets.yaml."""
    target = value.mapping()[TARGET]
    kind = target.text(TARGET).rpartition(".")[2]
    if kind not in _FIELDS:
        raise target.error(f"_target_ {kind!r} is not supported; use one of: {', '.join(_FIELDS)}")
    names = {key: name for key, (name, _) in _FIELDS[kind].items()}
    known = [TARGET, *_COMMON, *names, *(_FIXED if kind == _PERTURBATION else ())]
    fields: dict[str, Any] = dict(_FIELDS[kind].values())
    for key, given in value.mapping(known).items():
        if key in names:
            fields[names[key]] = given.text(key)
        elif key == "path":
            fields["path"] = given.text(key)
        elif key == "organism":
            fields["organism"] = _organism(given)
        elif key in _FIXED and given.plain() not in _FIXED[key]:
            only = " or ".join(map(repr, _FIXED[key]))
            raise given.error(f"{key}={given.plain()!r} is not supported; gpubench uses {only}: leave it out")
    return fields


def _organism(value: Value) -> str:
    text = value.text("organism")
    name = re.fullmatch(r"\$\{organism:(\w+)\}|(\w+)", text)
    if name is None:
        raise value.error(f"organism {text!r} cannot be read; write it as ${{organism:HUMAN}} or homo_sapiens")
    if name[2]:
        return name[2].lower()
    if name[1] not in _ORGANISMS:
        raise value.error(f"organism {name[1]!r} is unknown to cz-benchmarks; write its Latin name, as homo_sapiens")
    return _ORGANISMS[name[1]]
