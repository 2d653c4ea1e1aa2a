"""Make `docs/layers.md` from the dataclasses of the layer types.

    python tools/generate_layer_docs.py            write it
    python tools/generate_layer_docs.py --check    write nothing; exit 1 where it is stale

Types of third parties that are installed are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from netc.cli.layers import kernels
from netc.report.layers import catalogue, document

CATALOGUE = Path(__file__).resolve().parents[1] / "docs" / "layers.md"


def text() -> str:
    """Return what the file should hold."""
    return document(catalogue(kernels(), own=True))


def main() -> None:
    """Write the file, or with --check tell whether it is stale."""
    wanted = text()
    if "--check" not in sys.argv[1:]:
        CATALOGUE.write_text(wanted, encoding="utf-8")
    elif not CATALOGUE.exists() or CATALOGUE.read_text("utf-8") != wanted:
        sys.exit("docs/layers.md is stale; run tools/generate_layer_docs.py")


if __name__ == "__main__":
    main()
