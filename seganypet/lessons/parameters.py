"""The parameters of a notebook: are their names known and their types right?"""

import ast
from collections.abc import Mapping
from typing import Any

from seganypet.errors import SegAnyPETError

INJECTED = "# Parameters\n"  # how papermill's cell begins


def check_parameters(scope: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook does not have, or that are of another type than it says.

    papermill only warns of an unknown name and hands on text for what should be a number or a list.

    Args:
        scope: The notebook's `globals()`, right behind the cell of annotated parameters.

    Raises:
        SegAnyPETError: A name or a value is not what the notebook says; all are named.
    """
    declared = scope["__annotations__"]
    injected = next((cell for cell in reversed(scope.get("In", [])) if cell.startswith(INJECTED)), "")
    given = [target.id for node in ast.parse(injected).body if isinstance(node, ast.Assign)
             for target in node.targets if isinstance(target, ast.Name)]  # fmt: skip
    problems = [f"there is no parameter {name}" for name in given if name not in declared]
    for name, kind in declared.items():
        value = scope[name]
        is_kind = isinstance(value, (int, float) if kind is float else kind)
        if not is_kind or (isinstance(value, bool) and kind is not bool):
            problems.append(f"{name}={value!r} is of type {type(value).__name__}, expected {kind.__name__}")
    if problems:
        names = ", ".join(f"{name}: {kind.__name__}" for name, kind in declared.items())
        raise SegAnyPETError(f"parameters: {'; '.join(problems)}. The notebook has {names}.")
