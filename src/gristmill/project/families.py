"""The paths of a bucket's files → tables to be: which belong together, and by what name.

It looks at names only: what stands in a file is for others to read.
"""

from __future__ import annotations

import calendar
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Literal

from gristmill.project.table import Period, Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    Every = Literal["day", "month", "year"]

SUFFIX = re.compile(r"\.(csv|tsv)(\.gz)?$", re.IGNORECASE)
LONGEST_NAME = 48
TAKEN = ("feature_store", "training_set")
"""Names that Gristmill's own views have."""
MOST_NUMBERED = 20
"""From this many on, files that differ in a number alone are taken for parts of one thing."""

_YEAR, _MONTH, _DAY = "(?:19|20)[0-9]{2}", "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])"
_MOMENT = re.compile(
    rf"(?<![0-9])(?:(?P<Y>{_YEAR})(?:(?P<between>[-_./]?)(?P<m>{_MONTH})"
    rf"(?:(?P=between)(?P<d>{_DAY}))?)?"
    rf"|(?:(?<=month=)|(?<=/m=)|(?<=mm=))(?P<m2>{_MONTH})"
    rf"|(?:(?<=day=)|(?<=/d=)|(?<=dd=))(?P<d2>{_DAY}))(?![0-9])"
)
_MARK = re.compile(r"\{period:[^}]*\}")
_WORDLESS = {"data", "part", "file", "export", "output", "dump", "table", "rows"}
"""File names that say nothing; the folder's name says more."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One table to be: a file, or the files of its periods."""

    name: str
    """A valid name, different from that of every other family."""
    path: str
    """The path, or the template of the paths."""
    files: tuple[str, ...]
    """The paths, the earliest period first."""
    every: tuple[Every, ...] = ()
    """What one file may cover, the likeliest first; empty for a file that stands alone."""
    doubts: tuple[str, ...] = field(default=())
    """What is not sure about it, a sentence each."""


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """All tables to be, and the files that none of them takes."""

    families: tuple[Family, ...]
    left_out: tuple[tuple[str, str], ...]
    """Path and reason."""


def group(paths: Iterable[str], *, apart: frozenset[str] = frozenset()) -> Grouped:
    """Families of the CSV files among some paths; each of those in `apart` stands alone."""
    templates: dict[str, list[str]] = defaultdict(list)
    left_out = []
    for path in sorted(paths):
        if not SUFFIX.search(path):
            left_out.append((path, "it is not named .csv, .csv.gz, .tsv or .tsv.gz"))
        elif "{" in path or "}" in path:
            left_out.append((path, "its path has braces, which stand for periods here"))
        else:
            templates[path if path in apart else template(path)].append(path)
    found: list[tuple[str, list[str], tuple[Every, ...], list[str]]] = []
    for path, files in templates.items():
        every = _likely(path, files) if len(files) > 1 else ()
        if every:
            ordered = sorted(files, key=lambda file: _moment(path, file) or date.min)
            found.append((path, ordered, every, []))
        else:
            found += [(file, [file], (), _alone(file, apart)) for file in files]
    kept, numbered = _without_numbered(found)
    named = _named([path for path, *_ in kept])
    families = [
        Family(
            name=name, path=path, files=tuple(files), every=every, doubts=(*doubts, *name_doubts)
        )
        for (path, files, every, doubts), (name, name_doubts) in zip(kept, named, strict=True)
    ]
    return Grouped(families=tuple(families), left_out=(*left_out, *numbered))


def template(path: str) -> str:
    """The path with every date in it as `{period:…}`; without a year in it, the path itself."""
    stem = SUFFIX.sub("", path)
    if not any(match["Y"] for match in _MOMENT.finditer(stem)):
        return path
    return _MOMENT.sub(_marked, stem) + path[len(stem) :]


def _marked(match: re.Match[str]) -> str:
    if not match["Y"]:
        return "{period:%m}" if match["m2"] else "{period:%d}"
    form = [f"%{part}" for part in "Ymd" if match[part]]
    return f"{{period:{(match['between'] or '').join(form)}}}"


def _moment(path: str, file: str) -> date | None:
    """The first day that a file's path names, by its template."""
    period = Period(every=_finest(path))
    name = Table(name="", path=path, columns=(), period=period).period_of(file)
    return period.bounds(name)[0] if name else None


def _finest(path: str) -> Every:
    marks = "".join(_MARK.findall(path))
    return "day" if "%d" in marks and "%m" in marks else "month" if "%m" in marks else "year"


def _likely(path: str, files: list[str]) -> tuple[Every, ...]:
    """What one file of a template may cover, the likeliest first; () where they are no family."""
    moments = [_moment(path, file) for file in files]
    days = [moment for moment in moments if moment]
    if len(days) < len(files) or len(set(days)) < len(days):
        return ()
    finest = _finest(path)
    possible: list[Every] = [finest]
    if finest == "day" and len({(day.year, day.month) for day in days}) == len(days):
        ends = all(day.day == calendar.monthrange(day.year, day.month)[1] for day in days)
        same = ends or len({day.day for day in days}) == 1
        possible = ["month", "day"] if same else ["day", "month"]
    if finest != "year" and len({day.year for day in days}) == len(days):
        same = len({(day.month, day.day) for day in days}) == 1
        possible = ["year", *possible] if same and finest == "day" else [*possible, "year"]
    return tuple(possible)


def _alone(file: str, apart: frozenset[str]) -> list[str]:
    """What to say of a file that has a date in its path and no siblings."""
    form = template(file)
    if form == file or file in apart:
        return []
    return [f"its path has a date; if more such files are to come, write path = {form!r}"]


_Found = tuple[str, list[str], "tuple[Every, ...]", list[str]]


def _without_numbered(found: list[_Found]) -> tuple[list[_Found], list[tuple[str, str]]]:
    """Of many files that differ in a number alone, the first; the others with a reason."""
    alike: dict[str, list[_Found]] = defaultdict(list)
    for one in found:
        alike[re.sub("[0-9]+", "0", one[0])].append(one)
    kept, left_out = [], []
    for group_of in alike.values():
        first, rest = group_of[0], group_of[1:]
        if len(group_of) < MOST_NUMBERED:
            kept += group_of
            continue
        told = (
            f"{len(group_of)} files differ from {first[0]} in a number alone; "
            "a table has one file, or one for each period"
        )
        kept.append((*first[:3], [*first[3], told]))
        left_out += [(one[0], f"it differs from {first[0]} in a number alone") for one in rest]
    return kept, left_out


def _named(paths: list[str]) -> list[tuple[str, list[str]]]:
    """A name for each path, with what is to be said of it."""
    wanted = [_stems(path) for path in paths]
    simple = [stems[-1] for stems in wanted]
    taken: set[str] = set(TAKEN)
    named = []
    for path, stems, stem in zip(paths, wanted, simple, strict=True):
        name = stem
        if simple.count(stem) > 1 and len(stems) > 1:
            name = table_name("_".join(stems[-2:]))
        name = _free(name, taken, {one for one in simple if one != name})
        said = []
        if name != stem:
            said = [f"{path} would be named {stem!r}, which another table or Gristmill has"]
        taken.add(name)
        named.append((name, said))
    return named


def _free(name: str, taken: set[str], others: set[str]) -> str:
    """The name, or one like it that is nobody's, and could not be a load of another's."""
    tries = [name, f"{name[: LONGEST_NAME - 5]}_file"]
    tries += [
        f"{name[: LONGEST_NAME - 9]}_file_{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(676)
    ]
    for one in tries:
        stem = re.fullmatch(r"(.+?)(_until)?_[0-9]+", one)
        loads = any(re.fullmatch(re.escape(one) + r"(_until)?_[0-9]+", other) for other in taken)
        if one not in taken and not loads and not (stem and stem[1] in taken | others):
            return one
    return name


def _stems(path: str) -> list[str]:
    """What a path's folders and file say of the table, as names; the last one says most."""
    stems: list[str] = []
    for part in SUFFIX.sub("", path).split("/"):
        bare = re.sub(r"[A-Za-z]+=(?=\{)", "", part) if _MARK.search(part) else part
        bare = _MARK.sub("_", bare).strip("-_. ")
        if bare and not (stems and bare.lower() in _WORDLESS):
            stems.append(table_name(bare))
    return stems or [table_name("table")]


def table_name(text: str) -> str:
    """A text as a name of the project file: letters, digits and _, no digit first."""
    plain = (
        unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore").decode()
    )
    name = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_") or "table"
    return (f"t_{name}" if name[0].isdigit() else name)[:LONGEST_NAME].rstrip("_")
