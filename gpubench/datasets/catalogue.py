"""Catalogues of datasets: the bundled one and those of users, in the format of gpubench or of cz-benchmarks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gpubench.core.errors import InputError, close_matches
from gpubench.core.files import config_folder
from gpubench.core.yaml_document import Value, read_document

VARIABLE = "GPUBENCH_CATALOGUE"
"""Environment variable with the paths of further catalogues, separated like the folders in PATH."""

_BUNDLED = Path(__file__).with_name("catalogue.yaml")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEMES = ("s3", "https", "http")

_TARGET = "_target_"
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


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """Description of a dataset in a catalogue.

    Attributes
    ----------
    id : name of the dataset
    path : s3://bucket/key, an http(s) URL, or the absolute path of a file; None if the catalogue gives no address
    title : title of the dataset, one line
    organism : species in Latin, such as homo_sapiens
    label, batch, time, species, sample : names of the columns of obs for these arguments of `gpubench.score`
    condition, control : for a perturbation dataset, the column of obs with the perturbation, and its value for control
        cells
    sha256 : SHA-256 of the file in hexadecimal, if known; checked when the file is fetched
    size : bytes of the file, if known; checked when the file is fetched
    where : file and line of the entry, for messages
    """

    id: str
    path: str | None = None
    title: str | None = None
    organism: str | None = None
    label: str | None = None
    batch: str | None = None
    time: str | None = None
    species: str | None = None
    sample: str | None = None
    condition: str | None = None
    control: str | None = None
    sha256: str | None = None
    size: int | None = None
    where: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether the path is a URL, so that the file has to be downloaded."""
        return self.path is not None and "://" in self.path

    def columns(self) -> dict[str, str]:
        """Return argument of `gpubench.score` -> column of obs, for each argument for which the entry has a column."""
        roles = ("label", "batch", "time", "species", "sample")
        return {role: name for role in roles if (name := getattr(self, role)) is not None}


_KEYS = tuple(field.name for field in fields(CatalogueEntry) if field.name not in ("id", "where"))


def user_catalogue() -> Path:
    """Return the path of the catalogue in the user's configuration folder, which need not exist."""
    return config_folder() / "datasets.yaml"


def read_catalogues(more: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = ()) -> dict[str, CatalogueEntry]:
    """Read all catalogues and return id -> entry.

    Catalogues are read in this order: the bundled one, the one in the user's configuration folder, those in
    `GPUBENCH_CATALOGUE`, then `more`. If several describe the same dataset, the fields of a later catalogue replace
    those of earlier ones. Raises InputError with file and line if a catalogue cannot be read or has an invalid entry.
    """
    entries = _read(_BUNDLED, {})
    if user_catalogue().is_file():
        entries = _read(user_catalogue(), entries)
    for path in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        entries = _read(Path(path).expanduser(), entries, VARIABLE)
    for named in [more] if isinstance(more, str | os.PathLike) else more:
        entries = _read(Path(named).expanduser(), entries)
    return entries


def find(id_: str, entries: dict[str, CatalogueEntry]) -> CatalogueEntry:
    """Return the entry of a dataset; if there is none, raise InputError with similar names."""
    if id_ not in entries:
        raise InputError(f"dataset {id_!r} is in no catalogue{close_matches(id_, entries)}; see gpubench datasets list")
    return entries[id_]


def local_file(entry: CatalogueEntry) -> Path:
    """Return the path of a dataset that is a local file; InputError if it has no path or does not exist."""
    if entry.path is None:
        raise InputError(
            f"dataset {entry.id!r} has no address; write 'datasets: {{{entry.id}: {{path: ...}}}}' with its path or URL"
            f" into {user_catalogue()}, or into a file that {VARIABLE} names"
        )
    path = Path(entry.path)
    if not path.exists():
        raise InputError(f"dataset {entry.id!r}: {path} does not exist; correct it in {entry.where}")
    return path


def _read(path: Path, known: dict[str, CatalogueEntry], argument: str = "catalogue") -> dict[str, CatalogueEntry]:
    document = read_document(path, argument)
    top = document.mapping(("datasets", "defaults"))  # `defaults` is Hydra's, in the files of cz-benchmarks
    if "datasets" not in top:
        raise document.error("a catalogue has its entries under the key 'datasets'; add that")
    entries = dict(known)
    for id_, value in top["datasets"].mapping(what="dataset").items():
        given = _read_fields(value, path)
        base = known.get(id_, CatalogueEntry(id_))
        if "path" in given:  # size and checksum of an earlier catalogue belong to another file
            base = replace(base, sha256=None, size=None)
        entries[id_] = replace(base, **given, where=value.where)
    return entries


def _read_fields(value: Value, catalogue: Path) -> dict[str, Any]:
    """Read the fields of one entry; a relative path is resolved against the folder of the catalogue."""
    keys = value.mapping()
    if _TARGET in keys:
        given = _translate(value)
    else:
        given = {key: _read_field(key, node) for key, node in value.mapping(_KEYS).items()}
    if "path" in given:
        scheme, separator, _ = given["path"].partition("://")
        if separator and scheme not in _SCHEMES:
            raise keys["path"].error(f"path {given['path']!r} has an unknown scheme; use s3://, https:// or a file")
        if not separator:
            given["path"] = str((catalogue.parent / Path(given["path"]).expanduser()).absolute())
    return given


def _read_field(key: str, value: Value) -> str | int:
    if key == "size":
        size = value.plain()
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise value.error("size must be a whole number of bytes")
        return size
    if key == "sha256":
        checksum = value.written(key).lower()
        if not _SHA256.fullmatch(checksum):
            raise value.error("sha256 must be 64 hexadecimal digits; run sha256sum on the file")
        return checksum
    return value.text(key)


def _translate(value: Value) -> dict[str, Any]:
    """Convert an entry of datasets.yaml of cz-benchmarks 0.15 to fields of a `CatalogueEntry`."""
    target = value.mapping()[_TARGET]
    kind = target.text(_TARGET).rpartition(".")[2]
    if kind not in _FIELDS:
        raise target.error(f"_target_ {kind!r} is not supported; use one of: {', '.join(_FIELDS)}")
    names = {key: name for key, (name, _) in _FIELDS[kind].items()}
    known = [_TARGET, *_COMMON, *names, *(_FIXED if kind == _PERTURBATION else ())]
    entry: dict[str, Any] = dict(_FIELDS[kind].values())
    for key, given in value.mapping(known).items():
        if key in names:
            entry[names[key]] = given.text(key)
        elif key == "path":
            entry["path"] = given.text(key)
        elif key == "organism":
            entry["organism"] = _organism(given)
        elif key in _FIXED and given.plain() not in _FIXED[key]:
            only = " or ".join(map(repr, _FIXED[key]))
            raise given.error(f"{key}={given.plain()!r} is not supported; gpubench uses {only}: leave it out")
    return entry


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
