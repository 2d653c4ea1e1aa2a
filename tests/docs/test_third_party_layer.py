"""The worked example of a layer type from outside does what its page says."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "third_party_layer"
TEXTS = ("net.prototxt", "deploy.prototxt", "solver.prototxt")


def by_hand(site: Path) -> None:
    """Put the module on the path with the metadata that an installer makes of pyproject.toml."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    shutil.copy(EXAMPLE / "netc_snake.py", site)
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def by_pip(site: Path) -> None:
    """Install the package as a user would, but from what is here already."""
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    source = site.parent / "source"
    shutil.copytree(EXAMPLE, source)  # a build writes beside its sources
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
            *("--no-build-isolation", "--disable-pip-version-check", "--target", str(site)),
            str(source),
        ],
        check=True,
        capture_output=True,
        text=True,
    )


@dataclass(frozen=True)
class Site:
    """A folder on Python's path that the package is in, and one with its texts."""

    path: Path
    work: Path

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(self.path), str(ROOT)])}
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.work, env=env, capture_output=True, text=True
        )

    def netc(self, *arguments: str) -> str:
        done = self.python("-m", "netc", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


def site_by(put: Callable[[Path], None], base: Path) -> Site:
    path, work = base / "site", base / "work"
    path.mkdir()
    work.mkdir()
    put(path)
    for name in TEXTS:
        shutil.copy(EXAMPLE / name, work)
    return Site(path, work)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return site_by(by_hand, tmp_path_factory.mktemp("third_party"))


def test_it_can_be_installed(tmp_path: Path) -> None:
    told = site_by(by_pip, tmp_path).netc("layers", "Snake")
    assert told.startswith("Snake\n\ny = x + sin(a x)^2 / a")


def test_it_is_listed(site: Site) -> None:
    told = site.netc("layers", "Snake")
    assert told.startswith("Snake\n\ny = x + sin(a x)^2 / a")
    assert "ONNX:      Reshape, Sin, Mul, Add, Div" in told.replace("Div, Add", "Add, Div")
    assert re.search(r"^custom_param: channel_shared +true or false +false$", told, re.M)
    assert "source:    Ziyin et al." in told


def test_shapes(site: Site) -> None:
    told = site.netc("summary", "-model", "net.prototxt")
    assert re.search(r"^snake +Snake +16x8 +16x8 +8 ", told, re.M)


def test_it_trains_and_exports(site: Site) -> None:
    site.netc("check", "solver.prototxt")
    told = site.netc("train", "-solver", "solver.prototxt")
    losses = [float(x) for x in re.findall(r"\bloss\b[ =:]+([0-9.e+-]+)", told)]
    assert losses[-1] < 0.1 * losses[0]
    site.netc(
        *("export", "-model", "deploy.prototxt", "-weights", "snake_iter_200.caffemodel"),
        *("-output", "snake.onnx"),
    )
    model = onnx.load(site.work / "snake.onnx")
    assert "Sin" in {node.op_type for node in model.graph.node}


def test_its_rules_agree_with_each_other(site: Site) -> None:
    done = site.python(
        "-c",
        "import warnings; warnings.simplefilter('error')\n"
        "from netc_snake import Snake\n"
        "from tests.support.layer_harness import check_layer, smooth\n"
        "from tests.support.lowering import check_lowering\n"
        "for layer in (Snake(), Snake(channel_shared=True)):\n"
        "    for shape in ((2, 3), (2, 3, 4, 5)):\n"
        "        check_layer(layer, [smooth(*shape)])\n"
        "        check_lowering(layer, [smooth(*shape)])\n",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("setting", "line", "expected"),
    [
        ('key: "chanel_shared" value: "true"', 3, "did you mean 'channel_shared'?"),
        ('key: "channel_shared" value: "2"', 3, "takes true or false"),
        ('key: "filler.value" value: "0"', 3, "a must not start at 0"),
    ],
)
def test_mistakes_in_its_settings(site: Site, setting: str, line: int, expected: str) -> None:
    (site.work / "bad.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [2, 3] } } }\n'
        'layer { name: "s" type: "Snake" bottom: "x" top: "y"\n'
        f"  custom_param {{ {setting} }} }}\n"
    )
    done = site.python("-m", "netc", "summary", "-model", "bad.prototxt")
    assert done.returncode == 1
    assert f"bad.prototxt:{line}:" in done.stderr
    assert expected in done.stderr


def test_without_the_package_the_error_says_how_to_add_a_type() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "netc", "check", "net.prototxt"],
        cwd=EXAMPLE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "unknown layer type 'Snake'" in done.stdout
    assert "is added through the entry-point group 'netc.layers'" in done.stdout


BROKEN = {
    "import nothing_of_that_name": "ModuleNotFoundError: No module named 'nothing_of_that_name'",
    "from netc.layers.activation import ReLU\nfrom netc.layers.registry import layer\n"
    "layer('Mine')(type('A', (ReLU,), {}))\nlayer('ReLU')(type('B', (ReLU,), {}))": (
        "RuntimeError: layer type 'ReLU' is defined by"
    ),
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_package_that_cannot_be_imported_breaks_nothing_else(code: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(code)
    info = tmp_path / "netc_broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: netc-broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[netc.layers]\nbroken = broken\n")
    site = Site(tmp_path, tmp_path)
    told = site.netc("layers", "ReLU")
    assert f"note: the package netc-broken cannot be imported: {BROKEN[code]}" in told
    (tmp_path / "net.prototxt").write_text('layer { name: "m" type: "Mine" }')
    done = site.python("-m", "netc", "summary", "-model", "net.prototxt")
    assert done.returncode == 1
    assert "the package netc-broken may have it, but cannot be imported" in done.stderr
