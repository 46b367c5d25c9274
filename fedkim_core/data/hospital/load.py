"""Read ``mapping.yaml``; every fault names its line.

Scalars are read as they are written: ``NO``, ``on``, ``1.10`` and ``007`` mean that very text.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from fedkim_core.data.hospital.mapping import Mapping
from fedkim_core.errors import UserError

LISTED = 10
"""Lines still to do that are named one by one."""


def load_mapping(path: Path) -> Mapping:
    """Read ``mapping.yaml``.

    Raises:
        UserError: missing, not YAML, a line still says TODO, or breaks a rule; names the line.
    """
    try:
        written = path.read_text(encoding="utf-8-sig")
        if unfinished := [i for i, line in enumerate(written.splitlines(), 1) if "TODO" in line]:
            lines = ", ".join(map(str, unfinished[:LISTED]))
            more = f" and {len(unfinished) - LISTED} more" if len(unfinished) > LISTED else ""
            raise UserError(
                f"{path}:{unfinished[0]}: still to do; complete or delete"
                f" {'these lines' if len(unfinished) > 1 else 'this line'}: {lines}{more}"
            )
        root = yaml.compose(written, Loader=yaml.BaseLoader)
        values = yaml.load(written, Loader=yaml.BaseLoader)
    except FileNotFoundError as error:
        raise UserError(f"{path}: file is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: file cannot be read as UTF-8 text") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path}:{mark.line + 1 if mark else 1}: not YAML") from error
    if root is None or not isinstance(values, dict):
        raise UserError(f"{path}:1: must hold site, stays, tables and examples")
    for line, key in _twice(root):
        raise UserError(f"{path}:{line}: {key!r} stands twice; keep one")
    try:
        return Mapping.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        line, place = _line(root, fault["loc"])
        rule = fault["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}:{line}: {f'{place}: ' if place else ''}{rule}") from error


def _twice(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Keys that a mapping holds more than once: YAML keeps the last and says nothing."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.start_mark.line + 1, key.value
            seen.add(key.value)
            yield from _twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _twice(value)


def _line(node: yaml.Node, place: tuple[int | str, ...]) -> tuple[int, str]:
    """Line of a value, and its place as far as the file has it."""
    line, found = node.start_mark.line + 1, []
    for step in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            found.append(str(step))
            pair = next(((k, v) for k, v in node.value if k.value == step), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        else:
            break
    return line, ".".join(found)
