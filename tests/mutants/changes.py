"""
What can be changed about a program, one small thing at a time, so that it does something else.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.FloorDiv: "*",
    ast.Div: "*",
    ast.Mod: "*",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.BitXor: "|",
}


@dataclass(frozen=True)
class Change:
    """
    One change.

    Attributes:
        path: The file, from the folder of the source on.

        where: The function that it is in, with its class.

        line: The line that it is on, from 1.

        start: Where in the file what is replaced begins, in characters.
    """

    path: Path
    where: str
    line: int
    start: int
    old: str
    new: str

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.module}.{self.where}:{self.line}: {old}  ->  {new}"

    @property
    def module(self) -> str:
        """
        The module, without the name of the package.
        """
        return ".".join(self.path.with_suffix("").parts[1:]).removesuffix(".__init__")

    @property
    def room(self) -> str:
        """
        The module or the package that it is in, without what is inside of that.
        """
        return self.module.partition(".")[0]

    def apply(self, source: str) -> str:
        """
        Return *source* with the change.
        """
        end = self.start + len(self.old)
        assert source[self.start : end] == self.old
        return source[: self.start] + self.new + source[end:]


def changes_of(path: Path, folder: Path) -> list[Change]:
    """
    Return every change that can be made to the functions in the file at *path* in *folder*, in
    order.
    """
    source = (folder / path).read_text(encoding="utf-8")
    found = _Finder(path, source)
    found.visit(ast.parse(source))
    return found.changes


class _Finder(ast.NodeVisitor):
    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self.source = source
        self.changes: list[Change] = []
        self._where: list[str] = []
        self._is_function: list[bool] = []
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def _offset(self, line: int, column: int) -> int:
        # Columns count bytes.
        text = self.source[self._starts[line - 1] : self._starts[line]]
        return self._starts[line - 1] + len(text.encode()[:column].decode())

    def _text(self, node: ast.expr | ast.stmt) -> tuple[int, str]:
        start = self._offset(node.lineno, node.col_offset)
        assert node.end_lineno is not None and node.end_col_offset is not None
        return start, self.source[start : self._offset(node.end_lineno, node.end_col_offset)]

    def _add(self, node: ast.expr | ast.stmt, new: str) -> None:
        start, old = self._text(node)
        where = ".".join(self._where)
        self.changes.append(Change(self.path, where, node.lineno, start, old, new))

    def _between(self, left: ast.expr, right: ast.expr, new: str) -> None:
        """
        Replace the operator that stands between two operands.
        """
        start, text = self._text(left)
        begin = start + len(text)
        end, _ = self._text(right)
        old = self.source[begin:end]
        if "(" in old or ")" in old or "#" in old:
            return
        where = ".".join(self._where)
        self.changes.append(Change(self.path, where, left.lineno, begin, old, f" {new} "))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._enter(node.name, node.body, is_function=False)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        # What only people read is no promise; what only checkers read, neither.
        if node.name == "__repr__" or any(
            "overload" in ast.unparse(d) for d in node.decorator_list
        ):
            return
        self._enter(node.name, node.body, is_function=True)

    visit_AsyncFunctionDef = visit_FunctionDef

    def _enter(self, name: str, body: list[ast.stmt], *, is_function: bool) -> None:
        self._where.append(name)
        self._is_function.append(is_function)
        for statement in body:
            self.visit(statement)
        self._where.pop()
        self._is_function.pop()

    def visit(self, node: ast.AST) -> None:
        # Constants of a module or a class are looked at by snapshots, not by tests.
        is_inside = bool(self._is_function) and self._is_function[-1]
        if isinstance(node, ast.Raise | ast.Assert | ast.arguments) or (
            not is_inside
            and not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.If)
        ):
            return
        if is_inside:
            self._change(node)
        super().visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def _change(self, node: ast.AST) -> None:
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                self._between(left, right, COMPARISONS[type(op)])
            case ast.BoolOp(op=op, values=[left, right]):
                self._between(left, right, "or" if isinstance(op, ast.And) else "and")
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                if not _is_text(left) and not _is_text(right):
                    self._between(left, right, ARITHMETIC[type(op)])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._add(node, self._text(operand)[1])
            case ast.Constant(value=bool(value)):
                self._add(node, str(not value))
            case ast.Constant(value=int(value)):
                self._add(node, str(value + 1))
            case ast.Return(value=value) if value is not None and ast.unparse(value) != "None":
                self._add(node, "return None")
            case ast.Expr(value=ast.Call() | ast.Await()) if not _logs(node):
                self._add(node, "pass")
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                self._add(test, f"(not ({self._text(test)[1]}))")
            case ast.Continue():
                self._add(node, "break")
            case ast.Break():
                self._add(node, "continue")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _logs(node: ast.Expr) -> bool:
    return ast.unparse(node).startswith(("_log.", "_logger.", "logging."))


def all_changes(rooms: Iterable[str], folder: Path) -> Iterator[Change]:
    """
    Yield every change to the *rooms* of the package in *folder*: modules, or packages of them.
    """
    for room in rooms:
        inside = sorted((folder / "harken" / room).rglob("*.py"))
        for path in inside or [folder / "harken" / f"{room}.py"]:
            yield from changes_of(path.relative_to(folder), folder)
