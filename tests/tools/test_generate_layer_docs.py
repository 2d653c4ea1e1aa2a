"""The catalogue in docs/ is what the dataclasses say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs", ROOT / "tools/generate_layer_docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_catalogue_is_up_to_date(tool: ModuleType) -> None:
    assert tool.CATALOGUE.read_text("utf-8") == tool.text(), "run tools/generate_layer_docs.py"


def test_a_stale_one_is_told(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "CATALOGUE", tmp_path / "layers.md")
    monkeypatch.setattr("sys.argv", ["generate_layer_docs.py", "--check"])
    with pytest.raises(SystemExit, match="is stale"):
        tool.main()
    monkeypatch.setattr("sys.argv", ["generate_layer_docs.py"])
    tool.main()
    monkeypatch.setattr("sys.argv", ["generate_layer_docs.py", "--check"])
    tool.main()
