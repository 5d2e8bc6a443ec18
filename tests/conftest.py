"""Processes that a test starts find the companion as the test itself does."""

import os
from pathlib import Path

NOTEBOOKS = str(Path(__file__).parents[1] / "notebooks")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [NOTEBOOKS, os.environ.get("PYTHONPATH")]))
