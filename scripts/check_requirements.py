"""Say which packages of a requirements file are missing: ``check_requirements.py FILE``."""

import importlib.metadata
import re
import sys
from pathlib import Path


def names(path: Path) -> list[str]:
    """Package names in a requirements file and in the files it includes with ``-r``."""
    found = []
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            found += names(path.parent / line[3:].strip())
        elif line:
            found.append(re.split(r"[<>=!~\[; ]", line)[0])
    return found


def missing(packages: list[str]) -> list[str]:
    """Those of ``packages`` that the running interpreter does not have."""
    absent = []
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            absent.append(package)
    return absent


def main() -> None:
    absent = missing(names(Path(sys.argv[1])))
    if absent:
        sys.exit(f"dark-miner: {sys.executable} lacks {', '.join(absent)}.")


if __name__ == "__main__":
    main()
