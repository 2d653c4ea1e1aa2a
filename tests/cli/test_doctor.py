"""`netc doctor`: it ends well here, where the tests run, and badly where something is missing."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

from tests.cli.conftest import Netc


def test_everything_is_here(netc: Netc) -> None:
    told = netc("doctor")
    assert told.code == 0
    assert told.out.splitlines()[0] == "netc"
    assert told.out.splitlines()[-1] == "everything that netc needs is there"


def test_json(netc: Netc) -> None:
    found = {item["name"]: item for item in json.loads(netc("doctor", "-format", "json").out)}
    assert found["numpy"]["found"] == importlib.metadata.version("numpy")
    assert found["numpy"]["status"] == "ok"


def test_a_missing_package_is_an_error_with_a_way_out(
    netc: Netc, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def without_lmdb(name: str) -> str:
        if name == "lmdb":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_lmdb)
    told = netc("doctor")
    assert told.code == 1
    assert "MISSING: needed for Data layers" in told.out
    assert '-m pip install "lmdb>=' in told.out
    assert told.out.splitlines()[-1] == "1 of the things that netc needs is not in order"
