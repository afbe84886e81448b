"""File names that every system can hold: Linux, macOS and Windows, on any usual file system."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from ..errors import DarkMinerError

CONCEPT = "%concept%"
MAX_STEM = 80
MAX_PART = 200
MAX_PREFIX = 400
"""Bytes of UTF-8 of a concept's stem, of a name before its number, of a whole prefix."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
_FORBIDDEN = '<>:"|?*'


def file_stem(concept: str) -> str:
    """A file name for a concept: letters and digits of any script, and dashes.

    One longer than :data:`MAX_STEM` bytes is cut and ends in eight hex digits of the whole.
    """
    text = unicodedata.normalize("NFC", concept.lower())
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    stem = "-".join("".join(kept).split()) or "concept"
    if _RESERVED.match(stem):
        stem = f"concept-{stem}"
    if len(stem.encode()) <= MAX_STEM:
        return stem
    digits = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    head = stem.encode()[: MAX_STEM - len(digits) - 1].decode("utf-8", "ignore")
    return f"{head.rstrip('-')}-{digits}"


def checked_prefix(prefix: str, name: str = "filename_prefix") -> str:
    """A prefix of file names with ``/`` between its folders, as every system can hold it.

    ``%concept%`` may stand in it and counts as the longest stem it can become.

    Raises:
        DarkMinerError: if it leads out of its folder, or some system cannot hold it.
    """
    text = unicodedata.normalize("NFC", prefix).replace("\\", "/")
    for part in text.split("/"):
        wrong = _what_is_wrong(part)
        if wrong:
            raise DarkMinerError(
                f"{name} {_short(prefix)} {wrong}: write folders and the beginning of a file name "
                "with / between them, e.g. 'loras/erase'."
            )
    if len(_longest(text).encode()) > MAX_PREFIX:
        raise DarkMinerError(
            f"{name} {_short(prefix)} is longer than {MAX_PREFIX} bytes: write a shorter one."
        )
    return text


def checked_folder(folder: str, name: str = "folder") -> str:
    """A folder's name below another one with ``/`` between its parts, as every system can hold it.

    Raises:
        DarkMinerError: if it leads out of the other one, or some system cannot hold it.
    """
    text = unicodedata.normalize("NFC", folder).replace("\\", "/")
    wrong = next(filter(None, map(_what_is_wrong, text.split("/"))), "")
    if not wrong and len(text.encode()) > MAX_PREFIX:
        wrong = f"is longer than {MAX_PREFIX} bytes"
    if wrong:
        raise DarkMinerError(
            f"{name} {_short(folder)} {wrong}: write a folder's name, or several with / between "
            "them, e.g. 'runs/ink'."
        )
    return text


def _what_is_wrong(part: str) -> str:
    """What keeps a folder's or file's name from being held everywhere, or ""."""
    forbidden = next((c for c in part if c in _FORBIDDEN or _unseen(c)), None)
    if not part or part in (".", ".."):
        return f"has a part {part!r}, which is no name of its own"
    if forbidden is not None:
        return f"holds {forbidden!r}, which no file name may hold everywhere"
    if part != part.strip() or part.endswith("."):
        return f"has a part {_short(part)} with a blank at an end or a full stop behind it"
    if _RESERVED.match(part):
        return f"has a part {_short(part)}, a name that Windows keeps for a device"
    if part.lower().endswith(".safetensors"):
        return "ends in '.safetensors', which is put behind the number by itself"
    if len(_longest(part).encode()) > MAX_PART:
        return f"has a part {_short(part)} of more than {MAX_PART} bytes"
    return ""


def _unseen(character: str) -> bool:
    """Control characters, halves of surrogate pairs, what has no meaning."""
    return unicodedata.category(character) in ("Cc", "Cs", "Cn", "Zl", "Zp")


def _longest(text: str) -> str:
    return text.replace(CONCEPT, "x" * MAX_STEM)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
