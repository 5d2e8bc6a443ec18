"""Shapes in signatures are checked, and processes that a test starts find the companion as the test itself does."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

NOTEBOOKS = str(Path(__file__).parents[1] / "notebooks")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [NOTEBOOKS, os.environ.get("PYTHONPATH")]))

FLOORS = ("tasks", "measure", "weighting", "step", "merging")
install_import_hook([f"mtlkit.{floor}" for floor in FLOORS], "axes.checked")
