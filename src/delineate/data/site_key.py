"""The key of a site: what turns names of people into marks that nobody else can turn back.

A patient's number has seven digits or so: a plain hash of it is undone by trying all. A keyed hash
(HMAC-SHA-256) is not, without the key. The key is made once and lies beside the data, in no model
and in no run folder; marks of two sites, or of two keys, have nothing in common.

    --site-key FILE                   the key there; made there if there is none
    .delineate-site-key               in the folder that holds the data folder, or above that
    ~/.config/delineate/site-key      where the folder beside the data cannot be written
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from delineate.core.atomic import output_error
from delineate.core.errors import ConfigError, DelineateError, OutputError

NAME = ".delineate-site-key"
_DIGITS = 16


@dataclass(frozen=True)
class SiteKey:
    """A key, and where it lies.

    Args:
        file: Where it lies.
        secret: 32 random bytes.
        remark: What the user should be told of it, empty if nothing.
    """

    file: Path
    secret: bytes = field(repr=False)
    remark: str = ""

    @property
    def id(self) -> str:
        """Tells keys apart, and gives nothing of them away."""
        return self._digest("\0which key")

    def mark(self, text: str) -> str:
        """The mark of a text: always the same with this key, 16 hexadecimal digits."""
        return self._digest(text)

    def _digest(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        return hmac.digest(self.secret, data, "sha256").hex()[:_DIGITS]


def find(root: Path, key_file: Path | None = None, away_from: Path | None = None) -> SiteKey:
    """The key of the site that a folder of data belongs to; made if there is none yet.

    Args:
        root: The folder of data; nothing is written into it.
        key_file: The key's file, as the user says.
        away_from: A folder that may be passed on: no key is made in it, or taken from it.

    Raises:
        ConfigError: A file that holds no key, or ``key_file`` lies in ``away_from``.
        OutputError: No key is there, and none can be made.
    """
    key, unreadable = _existing_key(root, key_file, away_from)
    if key is not None:
        return key
    if key_file is not None:
        return _make(key_file, "")
    beside = root.resolve().parent
    beside_allowed = beside != beside.parent and not _within(beside, away_from)
    if beside_allowed and not unreadable and _writable(beside):
        with contextlib.suppress(OutputError):
            return _make(beside / NAME, "")
    home = _home_file()
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        return _make(home, unreadable or f"no key can be written beside the data, into {beside}; ")
    except (OSError, OutputError) as error:
        detail = error.message if isinstance(error, DelineateError) else error.strerror
        raise OutputError(
            f"expected a place for the key that marks subjects, got: {detail}",
            where=home,
            fix="name a file for it that you may write: --site-key FILE",
            code="site-key-place",
        ) from error


def existing(
    root: Path, key_file: Path | None = None, away_from: Path | None = None
) -> SiteKey | None:
    """The key that ``find`` finds, None where it would make one.

    Raises:
        ConfigError: A file that holds no key, or ``key_file`` lies in ``away_from``.
        OutputError: ``key_file`` may not be read.
    """
    return _existing_key(root, key_file, away_from)[0]


def _existing_key(
    root: Path, key_file: Path | None, away_from: Path | None
) -> tuple[SiteKey | None, str]:
    """The key that is there, if any, and a remark on one that may not be read."""
    if key_file is not None:
        if _within(key_file.resolve(), away_from):
            raise ConfigError(
                "expected the key of the site apart from the results, got it among them",
                where=key_file,
                fix="keep it where only you look, beside the data; who is given the results must "
                "not get it",
                code="site-key-place",
            )
        try:
            return _read(key_file) if key_file.exists() else None, ""
        except PermissionError as error:
            raise output_error(error, key_file) from error
    folders = [f for f in root.resolve().parents if not _within(f, away_from)]
    unreadable = ""
    for file in (*(folder / NAME for folder in folders), _home_file()):
        with contextlib.suppress(PermissionError):
            if not file.is_file():
                continue
            try:
                return _read(file, unreadable), ""
            except PermissionError:
                unreadable = f"{file} may not be read by you; "
    return None, unreadable


def _home_file() -> Path:
    return Path.home() / ".config" / "delineate" / "site-key"


def _within(folder: Path, other: Path | None) -> bool:
    return other is not None and folder.is_relative_to(other.resolve())


def _writable(folder: Path) -> bool:
    """Whether a folder is meant to be written into; to root, all could be."""
    try:
        return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)
    except OSError:
        return False


def _read(file: Path, remark: str = "") -> SiteKey:
    try:
        text = file.read_text(encoding="ascii").strip()
        mode = file.stat().st_mode
    except PermissionError:
        raise
    except (OSError, UnicodeDecodeError):
        text, mode = "", 0
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ConfigError(
            "expected the key of a site: 64 hexadecimal digits",
            where=file,
            fix="put the right file there, or name another by --site-key",
            code="site-key",
        )
    if os.name == "posix" and mode & 0o007:
        remark += f"everybody may read the key of the site: chmod 600 '{file}'"
    elif remark:
        remark += f"subjects are marked with the key in {file}"
    return SiteKey(file, bytes.fromhex(text), remark)


def _make(file: Path, reason: str) -> SiteKey:
    """Write a new key, for the owner alone; one that somebody else wrote meanwhile is taken."""
    temporary = file.with_name(f"{file.name}-{secrets.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, file)  # unlike renaming, this never replaces a key
        except FileExistsError:
            return _read(file)
        except OSError:  # a file system without links
            temporary.replace(file)
    except OSError as error:
        raise output_error(error, file) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    made = (
        f"{reason}made the key of this site: {file}. Subjects are marked with it; keep it to "
        "yourselves, and move it above all folders of data to have them share it (or give it by "
        "--site-key)"
    )
    return SiteKey(file, _read(file).secret, made)
