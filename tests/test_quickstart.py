"""`make quickstart`, command by command, in a copy of what it needs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def recipe() -> list[list[str]]:
    """Return the commands of the quickstart target, as they run in this environment."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (body,) = re.findall(r"^quickstart:.*\n((?:\t.*\n)+)", makefile, re.M)
    python = shlex.quote(sys.executable)
    values = {"RUN": python, "NETC": f"{python} -m netc", "DIGITS": "build/digits"}
    lines = [re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], line) for line in body.splitlines()]
    return [shlex.split(line) for line in lines if not line.startswith("\t@")]


@pytest.mark.slow
def test_the_quickstart_does_what_it_promises(tmp_path: Path) -> None:
    for name in ("zoo", "solvers"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = []
    for command in recipe():
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        said.append(done.stdout + done.stderr)
        assert done.returncode == 0, f"{shlex.join(command)}\n{said[-1]}"

    data, base, tuned, ten, exported, predicted = said
    assert "1442 images" in data
    assert float(re.findall(r"accuracy = ([\d.]+)", base)[-1]) > 0.98
    assert "copied  conv1" in tuned and "fresh   ip2_5_9" in tuned
    assert float(re.findall(r"accuracy = ([\d.]+)", tuned)[-1]) > 0.95
    assert float(re.findall(r"accuracy = ([\d.]+)", ten)[-1]) >= 0.98
    assert "against netc's forward" in exported
    # Predictions of the exported file: the accuracy that netc itself found, image for image.
    (percent,) = re.findall(r"test images correctly: ([\d.]+) %", predicted)
    netc_found = float(re.findall(r"accuracy = ([\d.]+)", ten)[-1])
    assert float(percent) == pytest.approx(100 * netc_found, abs=0.01)  # two digits are printed
    assert predicted.count("predicted") == 10
