"""Catalogues: the bundled one, the user's, and those of cz-benchmarks; errors name the line."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import anndata
import pytest

import gpubench as gb
from gpubench.datasets import demo_path
from gpubench.datasets.catalogue import CatalogueEntry, read_catalogues

pytestmark = pytest.mark.usefixtures("cache")

CZBENCHMARKS = """
defaults:
  - _self_

datasets:
  tsv2_blood:
    _target_: czbenchmarks.datasets.SingleCellLabeledDataset
    organism: ${organism:HUMAN}
    path: s3://another-bucket/blood.h5ad
    label_column_key: free_annotation

  screen:
    _target_: czbenchmarks.datasets.SingleCellPerturbationDataset
    organism: ${organism:MOUSE}
    condition_key: gene
    de_gene_col: gene_id
    percent_genes_to_mask: 0.5
    path: screen.h5ad
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a catalogue."""

    def write_text(text: str) -> Path:
        path = tmp_path / "my.yaml"
        path.write_text(text)
        return path

    return write_text


@pytest.mark.slow
def test_bundled_catalogue_has_every_dataset_of_the_suite() -> None:
    entries = read_catalogues()
    assert len(entries) == 26 + 9 + 1 + 2 + 3
    assert sum(id_.startswith("tsv2_") for id_ in entries) == 26
    assert sum(id_.endswith("_spermatogenesis") for id_ in entries) == 9
    atlas = "s3://cz-benchmarks-data/datasets/v1/cell_atlases/Homo_sapiens/Tabula_Sapiens_v2/homo_sapiens_"
    assert (
        entries["tsv2_bone_marrow"].path == f"{atlas}10df7690-6d10-4029-a47e-0f071bb2df83_Bone_Marrow_v2_curated.h5ad"
    )
    replogle = entries["replogle_k562_essential_perturbpredict"]
    assert (replogle.condition, replogle.control, replogle.label) == ("condition", "non-targeting", None)
    assert entries["allen_soundlife_flu_vax_response"].label == "sample__visitName"
    assert entries["allen_soundlife_immune_variation"].label == "subject__ageAtFirstDraw"
    assert all(entry.path is None or entry.path.startswith("s3://cz-benchmarks-data/") for entry in entries.values())
    paths = [entry.path for entry in entries.values() if entry.path]
    assert len(set(paths)) == len(paths) == 38


def test_user_catalogue_adds_and_overrides_entries(write: Callable[[str], Path], tmp_path: Path) -> None:
    path = write(
        "datasets:\n  mine:\n    path: cells/mine.h5ad\n    label: cell_type\n    batch: donor\n    time: day\n"
        f"    sha256: {'AB' * 32}\n    size: 12\n  mouse_kidney: {{path: 'https://example.org/kidney.h5ad'}}\n"
    )
    entries = read_catalogues([path])
    assert entries["mine"] == CatalogueEntry(
        "mine",
        str(tmp_path / "cells" / "mine.h5ad"),
        label="cell_type",
        batch="donor",
        time="day",
        sha256="ab" * 32,
        size=12,
        where=f"{path}:3",
    )
    assert entries["mine"].columns() == {"label": "cell_type", "batch": "donor", "time": "day"}
    kidney = entries["mouse_kidney"]
    assert (kidney.path, kidney.label, kidney.is_remote) == ("https://example.org/kidney.h5ad", "cell_type", True)
    assert gb.datasets.ids(catalogue=path)[-1] == "mine"


def test_catalogues_are_read_in_order_of_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "config" / "gpubench"
    folder.mkdir(parents=True)
    (folder / "datasets.yaml").write_text("datasets: {a: {title: config}, b: {title: config}, c: {title: config}}\n")
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"datasets: {{{'b' if name == 'one' else 'c'}: {{title: {name}}}}}\n")
    monkeypatch.setenv("GPUBENCH_CATALOGUE", os.pathsep.join(str(tmp_path / f"{n}.yaml") for n in ("one", "two")))
    assert [gb.datasets.info(id_).title for id_ in "abc"] == ["config", "one", "two"]
    (tmp_path / "last.yaml").write_text("datasets: {c: {title: last}}\n")
    assert gb.datasets.info("c", catalogue=[tmp_path / "last.yaml"]).title == "last"
    monkeypatch.setenv("GPUBENCH_CATALOGUE", str(tmp_path / "none.yaml"))
    with pytest.raises(gb.InputError, match=r"GPUBENCH_CATALOGUE '.*none.yaml' cannot be read: No such file"):
        gb.datasets.ids()


def test_new_address_drops_the_inherited_checksum(write: Callable[[str], Path], tmp_path: Path) -> None:
    first = tmp_path / "first.yaml"
    first.write_text(f"datasets: {{a: {{path: a.h5ad, sha256: {'0' * 64}, label: x}}}}\n")
    entry = read_catalogues([first, write("datasets: {a: {path: b.h5ad}}\n")])["a"]
    assert (entry.sha256, entry.label) == (None, "x")


def test_czbenchmarks_catalogue_is_translated(write: Callable[[str], Path], tmp_path: Path) -> None:
    entries = read_catalogues([write(CZBENCHMARKS)])
    blood, screen = entries["tsv2_blood"], entries["screen"]
    assert (blood.path, blood.label) == ("s3://another-bucket/blood.h5ad", "free_annotation")
    assert (screen.organism, screen.condition, screen.control) == ("mus_musculus", "gene", "ctrl")
    assert screen.path == str(tmp_path / "screen.h5ad")


WRONG = {
    "unknown key": ("datasets:\n  a:\n    pth: x\n", r":3: key 'pth' is unknown \(did you mean 'path'\?\)"),
    "unknown top": ("dataset: {}\n", r":1: key 'dataset' is unknown \(did you mean 'datasets'\?\)"),
    "no datasets": ("defaults: []\n", ":1: a catalogue has its entries under the key 'datasets'"),
    "twice": (
        "datasets:\n  a: {}\n  b: {}\n  a: {}\n",
        r":4: dataset 'a' is repeated \(first in line 2",
    ),
    "no mapping": ("datasets:\n  - a\n", ":2: expected a mapping, lines of 'dataset: ...', not a list"),
    "entry is text": ("datasets:\n  a: x\n", ":2: expected a mapping, lines of 'key: ...', not 'x'"),
    "number": ("datasets:\n  a:\n    label: 1\n", r":3: label must be a text, not a number \(1\); put it in quotes"),
    "nothing": ("datasets:\n  a:\n    label:\n", ":3: label must be a text, not nothing"),
    "id": ("datasets:\n  no: {}\n", r":2: dataset must be a text, not a boolean \(no\); put it in quotes"),
    "sha256": ("datasets:\n  a:\n    sha256: 'abc'\n", ":3: sha256 must be 64 hexadecimal digits"),
    "size": ("datasets:\n  a:\n    size: big\n", ":3: size must be a whole number of bytes"),
    "scheme": ("datasets:\n  a:\n    path: ftp://x/y\n", ":3: path 'ftp://x/y' has an unknown scheme"),
    "syntax": ("datasets:\n  a: [1}\n", r":2: this is not YAML: .*; correct that line"),
    "tag": (
        "datasets:\n  a:\n    size: !!python/name:os.system\n",
        ":3: this cannot be read as YAML: could not determine",
    ),
    "cz key": (CZBENCHMARKS.replace("condition_key", "condition_ky"), r":15: key 'condition_ky' is unknown \(did you"),
    "cz class": (
        CZBENCHMARKS.replace("SingleCellLabeled", "Image"),
        ":7: _target_ 'ImageDataset' is not supported; use one of",
    ),
    "cz option": (
        CZBENCHMARKS.replace("0.5", "0.9"),
        ":17: percent_genes_to_mask=0.9 is not supported; gpubench uses 0.5",
    ),
    "cz organism": (CZBENCHMARKS.replace("HUMAN", "ELF"), ":8: organism 'ELF' is unknown to cz-benchmarks"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_invalid_catalogue_is_refused_with_its_line(text: str, message: str, write: Callable[[str], Path]) -> None:
    path = write(text)
    with pytest.raises(gb.InputError) as caught:
        read_catalogues([path])
    assert re.match(re.escape(str(path)) + message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_catalogue_that_is_binary_or_empty_is_refused(tmp_path: Path) -> None:
    for content, message in ((b"\xff\xfe\x00", "is not text in UTF-8"), (b"# nothing\n", "is empty")):
        (tmp_path / "my.yaml").write_bytes(content)
        with pytest.raises(gb.InputError, match=message):
            read_catalogues([tmp_path / "my.yaml"])


def test_unknown_dataset_gets_close_matches() -> None:
    with pytest.raises(gb.InputError, match=r"'tsv2_blod' is in no catalogue \(did you mean 'tsv2_blood'"):
        gb.datasets.info("tsv2_blod")


def test_dataset_without_file_is_refused_with_the_remedy(write: Callable[[str], Path]) -> None:
    with pytest.raises(gb.InputError, match=r"'mouse_kidney' has no address; write .*config/gpubench/datasets.yaml"):
        gb.datasets.fetch("mouse_kidney")
    with pytest.raises(
        gb.InputError, match=r"'tsv2_blood' is not in the cache .*; run gpubench datasets fetch tsv2_blood"
    ):
        gb.datasets.path("tsv2_blood")
    with pytest.raises(gb.InputError, match=r"'a': .*gone.h5ad does not exist; correct it in .*my.yaml:1"):
        gb.datasets.path("a", catalogue=write("datasets: {a: {path: gone.h5ad}}\n"))


def test_load_reads_remote_and_local_files(
    put: Callable[..., str], write: Callable[[str], Path], tmp_path: Path, content: bytes
) -> None:
    address = put("demo.h5ad", Path(demo_path()).read_bytes())
    local = tmp_path / "local.h5ad"
    local.write_bytes(Path(demo_path()).read_bytes())
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    catalogue = write(f"datasets: {{far: {{path: '{address}', sha256: {digest}}}, near: {{path: local.h5ad}}}}\n")
    far, near = (gb.datasets.load(id_, catalogue=catalogue) for id_ in ("far", "near"))
    assert isinstance(far, anndata.AnnData)
    assert far.obs.equals(near.obs)
    assert gb.datasets.path("far", catalogue=catalogue).read_bytes() == local.read_bytes()
    assert gb.datasets.fetch("near", catalogue=catalogue) == local
    backed = gb.datasets.load("far", backed=True, catalogue=catalogue)
    assert backed.isbacked
    backed.file.close()
    put("text.h5ad", content[:100])
    with pytest.raises(gb.InputError, match=r"text.h5ad cannot be read \(.*\); if it is damaged"):
        gb.datasets.load("t", catalogue=write(f"datasets: {{t: {{path: 's3://{address.split('/')[2]}/text.h5ad'}}}}\n"))
