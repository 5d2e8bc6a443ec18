"""nbval waits at most five seconds for a cell's outputs; a study trains for minutes.

Stored notebooks hold no stderr, where joblib may say that it renewed a worker: it is not compared either.
"""

OUTPUT_TIMEOUT = 1800


def pytest_collection_modifyitems(items):
    """Give every notebook cell time to train, and compare all its outputs but stderr."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = OUTPUT_TIMEOUT
            item.parent.skip_compare = (*item.parent.skip_compare, "stderr")
