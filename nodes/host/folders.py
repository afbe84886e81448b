"""Which folders of the host's machine a workflow may read pictures from."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...darkminer.errors import DarkMinerError
from ...darkminer.files import stamps as file_stamps
from ...darkminer.files.pictures import FolderPictures, picture_files, read_pictures

SETTING = "DARKMINER_PICTURE_FOLDERS"
"""The environment variable in which the host's owner names further folders."""


def picture_folder(text: str) -> Path:
    """The folder that a node's ``folder`` names, links followed.

    It may stand in quotes and begin with ``~``; a relative one lies in the host's input folder.

    Raises:
        DarkMinerError: if it lies neither in the host's input or output folder nor in one that its
            owner allows. Whether it exists is not asked, and not told.
    """
    return _place(text, "folder", "a folder of pictures", "the pictures")


def permitted_file(text: str, name: str) -> Path:
    """The same of a file that a node's input ``name`` names, which must be there.

    Raises:
        DarkMinerError: as :func:`picture_folder`, or if there is no such file.
    """
    place = _place(text, name, "a file", "the file")
    if not place.is_file():
        raise DarkMinerError(f"{name} {unquoted(text)!r} does not exist: name a file.")
    return place


def _place(text: str, field: str, what: str, it: str) -> Path:
    name = unquoted(text)
    try:
        below = os.path.join(folder_paths.get_input_directory(), os.path.expanduser(name))
        place = Path(os.path.realpath(below))
    except (OSError, ValueError) as error:
        raise DarkMinerError(f"{field} {name!r} is no path ({error}): name {what}.") from error
    if not permitted(place):
        raise DarkMinerError(
            f"{field} {name!r} lies outside the input and output folders of this ComfyUI: put {it} "
            f"into one of them, or let its owner name the folder in {SETTING}."
        )
    return place


def unquoted(text: str) -> str:
    """A path as people paste it, without blanks and quotes around it."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1].strip()
    return text


def permitted(place: Path) -> bool:
    """Whether a path with links followed lies in a folder that may be read."""
    return any(place == root or root in place.parents for root in _roots())


def _roots() -> list[Path]:
    allowed = (os.path.expanduser(p) for p in os.environ.get(SETTING, "").split(os.pathsep))
    own = (folder_paths.get_input_directory(), folder_paths.get_output_directory())
    return [Path(os.path.realpath(p)) for p in (*own, *allowed) if os.path.isabs(p)]


def read_folder(text: str) -> FolderPictures:
    """All pictures of the folder that a node's ``folder`` names.

    Raises:
        DarkMinerError: as :func:`picture_folder` and :func:`~.picture_files.read_pictures`.
    """
    return read_pictures(*_files(text))


def folder_files(text: str) -> list[Path]:
    """The picture files of the folder that a node's ``folder`` names, by name.

    Raises:
        DarkMinerError: as :func:`picture_folder`, or if there is no such folder.
    """
    return _files(text)[0]


def folder_stamp(text: str) -> str:
    """Changes when a picture of the folder does; what is wrong, where it cannot be read."""
    try:
        return file_stamps.contents(_files(text)[0])
    except DarkMinerError as error:
        return str(error)


def file_stamp(text: str, name: str) -> str:
    """Changes when a file does; what is wrong, where it cannot be read; empty for none."""
    if not text.strip():
        return ""
    try:
        return file_stamps.contents([permitted_file(text, name)])
    except DarkMinerError as error:
        return str(error)


def _files(text: str) -> tuple[list[Path], list[str]]:
    folder = picture_folder(text)
    if not os.path.isdir(folder):
        raise DarkMinerError(
            f"folder {unquoted(text)!r} does not exist: name a folder of pictures."
        )
    return picture_files(folder, permitted)
