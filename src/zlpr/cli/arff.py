"""Dense ARFF, as MEKA and Mulan write it, with the label count ``-C`` in the ``@relation`` line.

SciPy's reader refuses quoted names with ``=`` in nominal lists and knows nothing of labels, hence a small parser.

MEKA reads ``-C 3`` as "the first three attributes are the labels" and ``-C -3``, for files in Mulan's order, as "the
last three are" (``meka.core.MLUtils.prepareData``). Files saved again after their labels had moved to the front may
keep the minus sign. So the sign decides, unless only the other end is declared ``{0,1}``, as labels must be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zlpr.cli.errors import InputError
from zlpr.cli.sheet import Sheet

_WORD = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ATTRIBUTE = re.compile(rf"@attribute\s+({_WORD}|[^\s{{]+)\s*(.+)", re.IGNORECASE)
_CELL = re.compile(rf"\s*({_WORD}|[^,]*?)\s*(?:,|$)")
_LABEL_COUNT = re.compile(r"-[cC]\s+(-?\d+)")


@dataclass(frozen=True)
class _Attribute:
    name: str
    values: tuple[str, ...] | None  # the values of a nominal attribute, None for a number

    @property
    def is_binary(self) -> bool:
        return self.values is not None and set(self.values) <= {"0", "1"}


def parse_arff(path: Path, text: str) -> Sheet:
    """Parse a dense ARFF file.

    Parameters
    ----------
    path : Path
        For messages.
    text : str
        The file's text.

    Returns
    -------
    Sheet
        Numbers as they are; a nominal attribute with values 0 and 1 as one column; any other nominal attribute as one
        0-1 column a value, named ``attribute=value``.

    Raises
    ------
    InputError
        For sparse rows, missing values, undeclared values, attributes of text or dates, and malformed headers.
    """
    relation, attributes, rows = _sections(path, text)
    cells = [_cells(path, number, line, attributes) for number, line in enumerate(rows, start=1)]
    names: list[str] = []
    columns: list[np.ndarray[Any, Any]] = []
    for place, attribute in enumerate(attributes):
        found = [row[place] for row in cells]
        if attribute.values is None or attribute.is_binary:
            names.append(attribute.name)
            columns.append(_numbers(path, attribute, found))
        else:
            codes = _codes(path, attribute, found)
            names += [f"{attribute.name}={value}" for value in attribute.values]
            columns += [(codes == code).astype(float) for code in range(len(attribute.values))]
    return Sheet(tuple(names), np.stack(columns, axis=1), _labels(path, relation, attributes))


def _sections(path: Path, text: str) -> tuple[str, list[_Attribute], list[str]]:
    relation, attributes = "", []
    lines = iter(text.splitlines())
    for line in lines:
        line = line.strip()
        keyword = line[:10].lower()
        if keyword.startswith("@relation"):
            relation = line[9:]
        elif keyword.startswith("@attribute"):
            attributes.append(_attribute(path, line))
        elif keyword.startswith("@data"):
            break
        elif line and not line.startswith("%"):
            raise InputError(f"{path}: not an ARFF header line: {line[:60]!r}")
    else:
        raise InputError(f"{path}: not an ARFF file: it has no @data line")
    rows = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("%")]
    if not attributes or not rows:
        raise InputError(
            f"{path}: has {len(attributes)} attributes and {len(rows)} rows; at least one of each is needed"
        )
    return relation, attributes, rows


def _attribute(path: Path, line: str) -> _Attribute:
    match = _ATTRIBUTE.fullmatch(line)
    if match is None:
        raise InputError(f"{path}: cannot read the attribute line {line[:60]!r}")
    name, kind = _unquoted(match[1]), match[2].strip()
    if kind.startswith("{") and kind.endswith("}"):
        return _Attribute(name, tuple(_split(kind[1:-1])))
    if kind.split()[0].lower() in ("numeric", "real", "integer"):
        return _Attribute(name, None)
    raise InputError(
        f"{path}: attribute {name!r} is {kind[:30]!r}; only numeric and nominal attributes can be used"
    )


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word[:1] in ("'", '"') and len(word) > 1 else word


def _split(line: str) -> list[str]:
    if "'" not in line and '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    matches = list(_CELL.finditer(line))
    if matches and matches[-1].start() == len(line) and not line.rstrip().endswith(","):
        matches.pop()  # the empty match after the last cell
    return [_unquoted(match[1]) for match in matches]


def _cells(path: Path, number: int, line: str, attributes: Sequence[_Attribute]) -> list[str]:
    if line.startswith("{"):
        raise InputError(
            f"{path}: row {number} is in sparse notation ({{index value, ...}}); only dense rows can be read"
        )
    cells = _split(line)
    if len(cells) != len(attributes):
        raise InputError(
            f"{path}: row {number} has {len(cells)} cells, but there are {len(attributes)} attributes"
        )
    if "?" in cells:
        name = attributes[cells.index("?")].name
        raise InputError(f"{path}: row {number}, column {name!r}: the value is missing (?)")
    return cells


def _numbers(path: Path, attribute: _Attribute, found: Sequence[str]) -> np.ndarray[Any, Any]:
    if attribute.is_binary:
        _codes(path, attribute, found)
    try:
        return np.array(found, dtype=np.float64)
    except ValueError:
        for number, cell in enumerate(found, start=1):
            try:
                float(cell)
            except ValueError:
                where = f"{path}: row {number}, column {attribute.name!r}"
                raise InputError(f"{where}: expected a number, found {cell!r}") from None
        raise


def _codes(path: Path, attribute: _Attribute, found: Sequence[str]) -> np.ndarray[Any, Any]:
    assert attribute.values is not None
    code = {value: place for place, value in enumerate(attribute.values)}
    for number, cell in enumerate(found, start=1):
        if cell not in code:
            expected = ", ".join(attribute.values[:6])
            where = f"{path}: row {number}, column {attribute.name!r}"
            raise InputError(f"{where}: expected one of {expected}, found {cell!r}")
    return np.array([code[cell] for cell in found])


def _labels(path: Path, relation: str, attributes: Sequence[_Attribute]) -> tuple[str, ...]:
    match = _LABEL_COUNT.search(relation)
    if match is None:
        return ()
    count = abs(int(match[1]))
    if not 0 < count < len(attributes):
        raise InputError(f"{path}: @relation says -C {match[1]}, but there are {len(attributes)} attributes")
    first, last = attributes[:count], attributes[-count:]
    said, other = (last, first) if match[1].startswith("-") else (first, last)
    if not _all_binary(said) and _all_binary(other):
        said = other
    if not all(attribute.values is None or attribute.is_binary for attribute in said):
        wrong = next(attribute.name for attribute in said if attribute.values and not attribute.is_binary)
        raise InputError(f"{path}: label {wrong!r} must be declared {{0,1}} or numeric")
    return tuple(attribute.name for attribute in said)


def _all_binary(attributes: Sequence[_Attribute]) -> bool:
    return all(attribute.is_binary for attribute in attributes)
