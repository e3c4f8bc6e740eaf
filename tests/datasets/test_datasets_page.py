"""The commands of docs/datasets.md, run as they are written against a server that has the dataset."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import s3

from gpubench import datasets
from gpubench.cli.main import main
from gpubench.datasets import demo_path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text()


@pytest.fixture
def folder(servers: tuple[Any, s3.Proxy], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page names; the demo's cells stand for tsv2_blood."""
    monkeypatch.chdir(tmp_path)
    cells = ad.read_h5ad(demo_path())[::8].copy()
    cells.write_h5ad("cells.h5ad")
    for name in ("emb.npy", "embedding.npy"):
        np.save(name, cells.obsm["X_pca"])
    Path("run.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    address = datasets.info("tsv2_blood").path
    bucket, _, key = address.removeprefix("s3://").partition("/")
    servers[0].create_bucket(Bucket=bucket)
    servers[0].put_object(Bucket=bucket, Key=key, Body=Path("cells.h5ad").read_bytes(), ACL="public-read")
    return tmp_path


@pytest.mark.slow
def test_commands_of_the_page_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0]  # tests/test_readme.py runs the others
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 5
    for name, *arguments in commands:
        assert name == "gpubench"
        assert main(arguments) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "tsv2_blood: " in printed
    assert "checked by the MD5 that the server keeps" in printed
    assert re.search(r"^label_prediction, mean of knn, lr, rf\n", printed, re.MULTILINE)
    assert {"results.json", "runs.csv", "report.html"} <= {path.name for path in Path("results").iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_keeps_what_is_fetched(folder: Path, cache: Path, proxy: s3.Proxy) -> None:
    begun, stopped = threading.Event(), threading.Event()

    def stall() -> None:
        begun.set()
        stopped.wait(30)

    proxy.faults.extend([s3.Fault(cut_after=20_000), s3.Fault(before=stall)])
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from gpubench.cli.main import main; sys.exit(main(['datasets', 'fetch', 'tsv2_blood']))"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=os.environ)
    assert begun.wait(30)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)
    stopped.set()
    assert process.returncode == 130
    assert printed == "gpubench: interrupted; the next fetch resumes the download\n"
    (part,) = cache.rglob("*.part")
    assert part.stat().st_size == 20_000
    proxy.reset()
    assert main(["datasets", "fetch", "tsv2_blood", "--quiet"]) == 0
    assert proxy.gets() == ["bytes=20000-"]
