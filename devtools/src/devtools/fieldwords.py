"""What stands below each field of a class, which Python itself forgets."""

import ast
import inspect
from typing import cast


def field_words(cls: type, top: type) -> dict[str, str]:
    """The words below each annotated field of `cls` and its bases up to `top`, on one line; empty for a field without."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[: cls.__mro__.index(top) + 1]):
        body = cast("ast.ClassDef", ast.parse(inspect.getsource(base)).body[0]).body
        for field, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = _text(below)
                found[field.target.id] = " ".join(text.split()).replace("|", r"\|")
    return found


def _text(node: ast.stmt | None) -> str:
    if (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ):
        return node.value.value
    return ""
