"""`python -m tools.presets convert FOLDER`: see `engines/realtime/convert.py`."""

import sys

from engines.realtime.convert import main

if __name__ == "__main__":
    sys.exit(main())
