"""The ``robbench`` command, run as ``python -m robbench.cli``."""

import sys

from robbench.cli import main

sys.exit(main())
