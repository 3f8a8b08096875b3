"""``python -m nvpn``: the same as ``nvpn``."""

import sys

from nvpn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
