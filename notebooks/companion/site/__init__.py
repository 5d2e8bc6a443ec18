"""Pages from the README, the stored notebooks and the docstrings: ``make site``, see :mod:`companion.site.__main__`."""
