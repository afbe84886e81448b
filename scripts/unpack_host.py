"""Unpack the ComfyUI inside a source archive: ``unpack_host.py ARCHIVE SHA256 FOLDER``."""

import hashlib
import sys
import tarfile
from pathlib import Path

INSIDE = "vendor/ComfyUI/"


def check(archive: Path, sha256: str) -> None:
    """Refuse any archive but the pinned one."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"dark-miner: {archive.name} has sha256 {found}, not the pinned {sha256}.")


def unpack(archive: Path, folder: Path) -> int:
    """Write the files below ``*/vendor/ComfyUI/`` to ``folder`` and return how many there were."""
    count = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            _, found, name = member.name.partition(INSIDE)
            if found and name and member.isfile():
                member.name = name
                tar.extract(member, folder, filter="data")
                count += 1
    return count


def main() -> None:
    archive, sha256, folder = sys.argv[1:4]
    check(Path(archive), sha256)
    if not unpack(Path(archive), Path(folder)):
        sys.exit(f"dark-miner: {archive} holds no {INSIDE}.")


if __name__ == "__main__":
    main()
