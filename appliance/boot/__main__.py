"""``python -m appliance.boot``: what ``chrysalis-boot.service`` runs."""

import sys

from appliance.boot.program import main

sys.exit(main())
