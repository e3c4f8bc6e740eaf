"""What the README says is true: its code runs, its commands exist, its tables are those of the package."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import typer

from gpubench import arguments, cli
from gpubench.demo import demo_path
from gpubench.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def gpubench_commands() -> list[str]:
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("gpubench ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the README names."""
    monkeypatch.chdir(tmp_path)
    cells = anndata.read_h5ad(demo_path())[::4]
    cells.write_h5ad("cells.h5ad")
    np.save("embedding.npy", cells.obsm["X_pca"])
    np.save("labels.npy", cells.obs["cell_type"].to_numpy(str))
    np.save("batch.npy", cells.obs["batch"].to_numpy(str))
    np.save("time.npy", np.arange(cells.n_obs) // 32)
    return tmp_path


def test_python_blocks_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(blocks(README, "python"))
    exec(compile(code, "README.md", "exec"), {})
    assert (folder / "results.json").is_file()
    assert "adjusted_rand_index" in capsys.readouterr().out


@pytest.mark.parametrize("line", gpubench_commands())
def test_commands_exist(line: str) -> None:
    """Each command parses: its flags exist, what it requires is there."""
    _, name, *rest = shlex.split(line)
    command = typer.main.get_command(cli.app).commands[name]
    given = command.make_context(name, rest).params
    arguments.parse_options(given.get("option") or [])
    assert set(given.get("task") or []) <= set(TASKS)


def test_the_run_file_runs(folder: Path) -> None:
    (text,) = blocks(README, "yaml")
    Path("run.yaml").write_text(text)
    assert cli.main(["score", "run.yaml", "--out", "results", "--quiet"]) == 0
    assert {"pbmc", "half"} <= {path.name for path in Path("results").iterdir()}


def test_messages_are_what_the_commands_print(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks(README, "console") for line in block.splitlines()]
    assert lines
    for command, message in zip(lines[::2], lines[1::2], strict=True):
        assert cli.main(shlex.split(command.removeprefix("$ gpubench "))) == cli.EXIT_BAD_INPUT
        assert capsys.readouterr().err.strip() == message


def test_table_of_tasks() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)
    told = {
        task: (asks, needs, re.findall(r"`(\w+)`", metrics)) for task, asks, needs, metrics in rows if task in TASKS
    }
    assert told == {task.id: (task.question, ", ".join(task.needs), list(task.metrics)) for task in TASKS.values()}


def test_speed_is_what_was_measured() -> None:
    script = ROOT / "benchmarks" / "table.py"
    measured = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    mark, end = "<!-- speed: written by python benchmarks/table.py --write -->\n", "<!-- end of speed -->"
    assert README.partition(mark)[2].partition(end)[0] == measured


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_links_and_paths_lead_somewhere(text: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    scripts = re.findall(r"(?:python|bash) ((?:\.ci|benchmarks)/[\w./]+)", text)
    paths = re.findall(r"`((?:gpubench|tests|benchmarks|kernels)/[\w./]+)`", text)
    missing = [path for path in [*links, *scripts, *paths] if not (ROOT / path).exists()]
    assert not missing
