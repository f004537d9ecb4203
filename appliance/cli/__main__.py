"""``python -m appliance.cli``."""

from appliance.cli.main import run

run()
