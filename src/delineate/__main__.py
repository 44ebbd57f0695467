"""``python -m delineate``."""

from __future__ import annotations

import sys

from delineate.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
