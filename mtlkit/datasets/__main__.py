"""``python -m mtlkit.datasets list`` and ``python -m mtlkit.datasets fetch NAME...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mtlkit.datasets import files, names, needs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mtlkit.datasets", description="Data files of mtlkit.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show all data sets, their files and whether they are there")
    fetching = commands.add_parser("fetch", help="download the files of data sets ahead of time")
    fetching.add_argument("names", nargs="+", metavar="NAME", choices=names())
    given = parser.parse_args(arguments)
    wanted = names() if given.command == "list" else given.names
    failed = False
    for name in wanted:
        print(name if needs(name) else f"{name} (needs no file of a known address)")
        for file in needs(name):
            try:
                path = files.fetch(file) if given.command == "fetch" else files.find(file)
                if path is not None:
                    files.checked_bytes(file, path)
                print(f"  {file}: {'not here, ' + files.FILES[file].address if path is None else path}")
            except (OSError, ValueError) as error:
                failed = True
                print(f"  {file}: {error}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
