"""nbval waits at most five seconds for a cell's outputs; a study trains for minutes."""

OUTPUT_TIMEOUT = 1800


def pytest_collection_modifyitems(items):
    """Give every notebook cell time to train."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = OUTPUT_TIMEOUT
