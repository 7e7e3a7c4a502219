"""What a project's own files were when a version was made: their digests, and the git commit.

It reads what git left on the disk and runs no git: whose folder it is decides nothing here.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_MOST_LINKS = 5
"""Names that stand for names, one after the other, before git itself gives up."""


def project_code(root: Path, files: Iterable[str], modules: Mapping[str, str]) -> dict[str, Any]:
    """The lineage's `project`: `files` with their SHA-256, and the `commit` that is checked out.

    `files` are named from the project's folder; `modules` have their digest already. The commit is
    None outside a git work tree, and says nothing of what was changed since: the digests do.
    """
    digests = {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest()
        for name in sorted(set(files))
        if (root / name).is_file()
    }
    return {"commit": commit(root), "files": {**digests, **modules}}


def described(code: Mapping[str, Any] | None) -> str:
    """A word for people: the commit, and one digest of all files; empty where nothing is known."""
    if not code:
        return ""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(code["files"].items()))
    digest = f"files {hashlib.sha256(lines.encode()).hexdigest()[:12]}"
    return f"commit {code['commit'][:12]}, {digest}" if code["commit"] else digest


def commit(folder: Path) -> str | None:
    """The commit that is checked out in the work tree around a folder; None where none is found."""
    for place in (folder, *folder.parents):
        repository = place / ".git"
        try:
            if repository.is_file():  # a work tree of its own, or a submodule
                pointer = repository.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
                repository = place / pointer
            if repository.is_dir():
                return _resolved(repository, "HEAD", _MOST_LINKS)
        except (OSError, UnicodeDecodeError):
            return None
    return None


def _resolved(repository: Path, name: str, links: int) -> str | None:
    """What a name stands for: a branch may lie in the repository that a work tree belongs to."""
    common = repository
    if (repository / "commondir").is_file():
        common = repository / (repository / "commondir").read_text(encoding="utf-8").strip()
    for place in (repository, common):
        if (place / name).is_file():
            found = (place / name).read_text(encoding="utf-8").strip()
            if found.startswith("ref:") and links:
                return _resolved(repository, found.removeprefix("ref:").strip(), links - 1)
            return found if _COMMIT.fullmatch(found) else None
    return _packed(common, name)


def _packed(repository: Path, name: str) -> str | None:
    packed = repository / "packed-refs"
    if packed.is_file():
        for line in packed.read_text(encoding="utf-8").splitlines():
            found, _, of = line.partition(" ")
            if of == name and _COMMIT.fullmatch(found):
                return found
    return None
