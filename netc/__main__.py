"""`python -m netc`: the command line without the installed script."""

import sys

from netc.cli import main

sys.exit(main())
