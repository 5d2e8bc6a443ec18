"""Shapes in signatures are checked, and processes that a test starts find the companion as the test itself does."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

NOTEBOOKS = str(Path(__file__).parents[1] / "notebooks")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [NOTEBOOKS, os.environ.get("PYTHONPATH")]))

FLOORS = ("tasks", "gradients", "measure", "weighting", "step", "merging")
install_import_hook([f"mtlkit.{floor}" for floor in FLOORS], "axes.checked")


def pytest_addoption(parser):
    """Tests that take hours are asked for by name."""
    what = "advice on real and on planted tables trained as long as a user's, planted ones over ten seeds: hours"
    parser.addoption("--thorough", action="store_true", help=what)


def pytest_configure(config):
    """Let pass what fit and compare say of seeds that diverge, as they do on purpose in several tests.

    In pyproject.toml this filter would import mtlkit before the hook is there.
    """
    config.addinivalue_line("filterwarnings", "ignore::mtlkit.results.IncompleteRuns")
