"""The program, as the staged directory is run: ``python3 -I DIRECTORY``."""

from __future__ import annotations

import os
import sys

from appliance.image.seal.program import main

if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))
