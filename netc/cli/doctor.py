"""Report versions, devices, what is missing and how to get it.

Exit code 1 where something that netc needs is missing or broken.

example: netc doctor
         netc doctor -format json
"""

from __future__ import annotations

import argparse

from netc.cli import options


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    options.format_option(parser, "text", "json")


def run(args: argparse.Namespace) -> int:
    """Look, and tell."""
    from netc.backends import states
    from netc.report.doctor import examine, render

    findings = examine(states())
    print(render(findings, args.format))
    return 1 if any(finding.status.bad for finding in findings) else 0
