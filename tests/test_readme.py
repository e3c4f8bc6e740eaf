"""README and pages are true: their code runs, their commands exist, their tables are generated."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import perturbed
import pytest
import screens
import typer
from resume_cases import SMALL_FORESTS

import gpubench as gb
from gpubench.cli import errors, flags, listing, main
from gpubench.datasets import demo_path
from gpubench.tasks import TASKS, label_prediction

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
COMMANDS_TESTED_HERE = [page for page in PAGES if page not in ("docs/clusters.md", "docs/first-session.md")]
"""The first session has its own test; clusters need machines that a test does not have."""

ALL_COMMANDS = "\n".join(PAGES[page] for page in COMMANDS_TESTED_HERE)


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def gpubench_commands() -> list[str]:
    """The commands of all pages, each once."""
    lines = [line for block in blocks(ALL_COMMANDS, "sh") for line in block.splitlines()]
    parts = (part.strip() for line in lines for part in line.split("&&"))
    return list(dict.fromkeys(part for part in parts if part.startswith("gpubench ")))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages name; forests are small, for speed."""
    monkeypatch.setattr(label_prediction, "SETTINGS", SMALL_FORESTS)
    monkeypatch.chdir(tmp_path)
    cells = anndata.read_h5ad(demo_path())[::4]
    cells.write_h5ad("cells.h5ad")
    np.save("embedding.npy", cells.obsm["X_pca"])
    np.save("labels.npy", cells.obs["cell_type"].to_numpy(str))
    np.save("batch.npy", cells.obs["batch"].to_numpy(str))
    np.save("time.npy", np.arange(cells.n_obs) // 32)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_blocks_run(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(blocks(PAGES[page], "python"))
    exec(compile(code, page, "exec"), {})
    assert (folder / "results.json").is_file()
    assert "adjusted_rand_index" in capsys.readouterr().out


@pytest.mark.slow
def test_blocks_of_quick_start_and_migration_run(folder: Path) -> None:
    """What migration shows of other packages is text: the parity tests run it in the environments that have them."""
    for page in ("docs/quick-start.md", "docs/migration.md"):
        exec(compile("\n".join(blocks(PAGES[page], "python")), page, "exec"), {})


def test_drop_in_block_runs() -> None:
    (code,) = blocks(PAGES["docs/drop-in.md"], "python")
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


BY_ANOTHER_TEST = {
    "gpubench demo": "cli/test_main.py runs it, and .ci/run from the wheel",
    "gpubench demo --task perturbation_prediction": "likewise",
    "gpubench doctor --gpu": "needs a GPU: engines/cuda/test_gpu_doctor.py runs it on the host emulation",
    "gpubench datasets fetch tsv2_blood": "needs S3: datasets/test_first_session.py has a server",
    "gpubench score tsv2_blood --embedding emb.npy --out results/": "needs what was fetched, as above",
}
FIRST = "gpubench prepare "
"""What it writes is scored by a line above it."""


@pytest.fixture
def files(folder: Path) -> Path:
    """The files that the commands name, of few cells."""
    rng = np.random.default_rng(0)
    given = anndata.read_h5ad("cells.h5ad")
    cells = anndata.AnnData(rng.poisson(1.0, (given.n_obs, 120)).astype(np.float32), given.obs, obsm=dict(given.obsm))
    cells.obs["donor"] = cells.obs["batch"]
    cells.obs["day"] = np.arange(cells.n_obs) // 32
    cells.obs["organism"] = "human"
    label, x = cells.obs["cell_type"].to_numpy(), cells.obsm["X_pca"]
    centres = np.stack([x[label == own].mean(axis=0) for own in label])
    cells.obsm["X_scvi"] = (x + centres).astype(np.float32)  # better than X_pca, as `compare --fail-if-worse` asks
    cells.obsm["X_uce"] = cells.obsm["X_pca"]
    for name in ("cells", "embryo", "human"):
        cells.write_h5ad(f"{name}.h5ad")
    cells.obs["organism"] = "mouse"
    cells.write_h5ad("mouse.h5ad")
    cells.obs.to_parquet("obs.parquet")
    screen = perturbed.make_screen()
    screen.obs["perturbation"] = screen.obs.pop("knock_down")
    screen.write_h5ad("screen.h5ad")
    perturbed.predict(screen).write_h5ad("predicted.h5ad")
    knockouts = screens.make_screen(0, n=60, n_control=120)
    knockouts.obs["perturbation"] = knockouts.obs.pop(screens.COLUMN)
    knockouts.obs["bio_rep"] = np.where(np.arange(knockouts.n_obs) % 2, "rep_1", "rep_2")
    knockouts.write_h5ad("knockout.h5ad")
    exec(compile(blocks(PAGES["docs/perturbation.md"], "python")[0], "docs/perturbation.md", "exec"), {})
    for name in ("X_pca", "X_scvi"):
        result = gb.score("cells.h5ad", name, label="cell_type", tasks="embedding")
        Path("results", name.removeprefix("X_")).mkdir(parents=True)
        result.to_json(f"results/{name.removeprefix('X_')}/results.json")
    write_run_files()
    return folder


def write_run_files() -> None:
    """Write the run files of docs/datasets.md and the files that they name, next to cells.h5ad."""
    for name, text in zip(("run", "matrix"), blocks(PAGES["docs/datasets.md"], "yaml"), strict=True):
        Path(f"{name}.yaml").write_text(text)
    cells = anndata.read_h5ad("cells.h5ad")
    cells[::2].write_h5ad("sample.h5ad")
    np.save("whole.npy", cells.obsm["X_pca"][:, :5])
    np.save("sample.npy", cells.obsm["X_pca"][::2, :5])


@pytest.mark.slow
def test_commands_run(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, in order but for the one that makes a file for another."""
    lines = gpubench_commands()
    assert set(BY_ANOTHER_TEST) <= set(lines)
    failed = [
        (line, capsys.readouterr().err)
        for line in sorted(lines, key=lambda line: not line.startswith(FIRST))
        if line not in BY_ANOTHER_TEST and main.main(shlex.split(line)[1:])
    ]
    assert not failed


@pytest.mark.slow
def test_page_of_perturbations_runs_on_real_knockouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands and code in order, and what it says of the audit."""
    monkeypatch.chdir(tmp_path)
    Path("knockout.h5ad").symlink_to(shared_data / "papalexi_knockout.h5ad")
    page = PAGES["docs/perturbation.md"]
    first, last, *_ = blocks(page, "python")
    names: dict[str, object] = {}
    exec(compile(first, "docs/perturbation.md", "exec"), names)
    for line in "\n".join(blocks(page, "sh")).splitlines():
        assert main.main(shlex.split(line)[1:]) == 0, line
    printed = capsys.readouterr().out
    assert "hardly depend on the perturbation" in printed
    assert "closest to the mean of the real perturbations" in printed
    assert "control cells differ from" in printed
    exec(compile(last, "docs/perturbation.md", "exec"), names)
    assert capsys.readouterr().out.startswith("True\n")


@pytest.mark.slow
def test_tutorial_of_perturbations_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its code in order, and what it says of the findings and the scores."""
    monkeypatch.chdir(tmp_path)
    text = PAGES["docs/perturbation.md"].partition("## Tutorial")[2]
    names: dict[str, Any] = {}
    exec(compile("\n".join(blocks(text, "python")), "docs/perturbation.md", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.count("hardly depend on the perturbation") == 1
    assert "prediction 'mean': predicted profiles hardly depend" in printed
    value = names["result"].value
    ranks = {name: value("discrimination_score_l1", embedding=name) for name in ("linear", "neighbour", "mean")}
    assert (round(ranks["linear"], 1), round(ranks["neighbour"], 1), round(ranks["mean"], 1)) == (0.8, 0.8, 0.5)
    assert round(value("discrimination_score_l1", embedding="replicate"), 2) == 0.92
    assert value("mae", embedding="baseline_mean") < value("mae", embedding="replicate")
    assert value("pearson_delta", embedding="baseline_mean") > value("pearson_delta", embedding="replicate")
    assert "pearson_delta A repeated experiment" in printed
    assert "What the scores are worth on these data" in Path("report.html").read_text()


@pytest.mark.parametrize("line", gpubench_commands())
def test_commands_exist(line: str) -> None:
    """Each command parses: its flags exist, what it requires is there."""
    _, name, *rest = shlex.split(line)
    command = typer.main.get_command(main.app).commands[name]
    given = command.make_context(name, rest).params
    flags.parse_options(given.get("option") or [])
    tasks = given.get("task") or []
    assert set([tasks] if isinstance(tasks, str) else tasks) <= set(TASKS)


def test_the_run_file_runs(folder: Path) -> None:
    write_run_files()
    assert main.main(["score", "run.yaml", "--out", "results", "--quiet"]) == 0
    assert {"pbmc", "half"} <= {path.name for path in Path("results").iterdir()}
    assert main.main(["score", "matrix.yaml", "--out", "matrix", "--quiet"]) == 0
    assert {"whole", "sample"} <= {path.name for path in Path("matrix").iterdir()}


def test_messages_are_what_the_commands_print(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks(PAGES["docs/command-line.md"], "console") for line in block.splitlines()]
    assert lines
    for command, message in zip(lines[::2], lines[1::2], strict=True):
        assert main.main(shlex.split(command.removeprefix("$ gpubench "))) == errors.EXIT_BAD_INPUT
        assert capsys.readouterr().err.strip() == message


def test_table_of_tasks_is_that_of_the_declarations() -> None:
    assert README.count(listing.tasks_table()) == 1


@pytest.mark.parametrize(("page", "n_tables"), [("README.md", 1), ("docs/performance.md", 5)])
def test_speed_tables_equal_the_measured_results(page: str, n_tables: int) -> None:
    code = f"import sys, table; sys.stdout.write(table.with_tables({page!r}, sys.stdin.read()))"
    command = [sys.executable, "-c", code]
    folder = ROOT / "benchmarks"
    written = subprocess.run(command, input=PAGES[page], capture_output=True, text=True, check=True, cwd=folder).stdout
    assert written == PAGES[page]
    assert PAGES[page].count("written by python benchmarks/table.py --write") == n_tables


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_lead_somewhere(page: str) -> None:
    text, folder = PAGES[page], (ROOT / page).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    scripts = re.findall(r"(?:python|bash) ((?:\.ci|benchmarks)/[\w./]+)", text)
    paths = re.findall(r"`((?:gpubench|tests|benchmarks|kernels)/[\w./]+)`", text)
    assert not [link for link in links if not (folder / link).exists()]
    assert not [path for path in [*scripts, *paths] if not (ROOT / path).exists()]


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
