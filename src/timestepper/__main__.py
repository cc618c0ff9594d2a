"""``python -m timestepper``: the command line."""

import sys

from timestepper.cli import main

sys.exit(main())
