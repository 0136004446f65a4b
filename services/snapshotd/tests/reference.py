"""What stacks of layers mean: a small model of the OCI image specification, to hold snapshotd to.

Entries are applied one after the other to one tree, as other runtimes extract them. Where snapshotd means something else, because it
unpacks each layer by itself, the model says so by "Differs".
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.snapshotd.tests.test_snapshotd_layers import E

PLAIN = (0o755, 0, 0)


@dataclass
class Node:
    """What lies at a path; a hard link is the same node again."""

    kind: str
    layer: int
    look: tuple[int, int, int] = PLAIN
    mtime: float | None = None
    content: str = ""
    children: dict[str, "Node"] = field(default_factory=dict)
    described: bool = False


def compose(layers: Iterable[Iterable[E]]) -> dict[str, tuple[object, ...]]:
    """Path to (kind, look, content, mtime) of all that a stack shows; '' is the root."""
    root = Node("d", -1)
    for number, entries in enumerate(layers):
        _Layer(root, number).apply(entries)
    found: dict[str, tuple[object, ...]] = {}
    waiting = [("", root)]
    while waiting:
        path, node = waiting.pop()
        look = (0o777, *node.look[1:]) if node.kind == "l" else node.look
        found[path] = (node.kind, look, node.content, node.mtime)
        waiting += [(f"{path}/{name}" if path else name, child) for name, child in node.children.items()]
    return found


class _Layer:
    def __init__(self, root: Node, number: int) -> None:
        self._root, self._number = root, number

    def apply(self, entries: Iterable[E]) -> None:
        for entry in entries:
            parts = [part for part in entry.name.split("/") if part not in ("", ".")]
            if not parts:
                self._dress(self._root, entry)
                continue
            *parents, name = parts
            parent = self._way(parents)
            if name == ".wh..wh..opq":
                self._hide_children(parent)
                if not parent.described or parent.layer != self._number:
                    # Differs: of a directory that its layer empties and does not describe, the old look goes as well
                    parent.look, parent.mtime, parent.layer, parent.described = (
                        PLAIN,
                        None,
                        self._number,
                        False,
                    )
            elif name.startswith(".wh..wh."):
                continue
            elif name.startswith(".wh.") or (entry.kind == "c" and entry.device == (0, 0)):
                # Differs: overlayfs' own form of a whiteout is taken as one
                self._hide(parent, name.removeprefix(".wh."), always=entry.kind == "c")
            else:
                self._put(parent, name, entry)

    def _way(self, parts: Iterable[str]) -> Node:
        """The directory at the end of a path, with links of this layer followed inside the root."""
        trail = [self._root]
        waiting = list(parts)[::-1]
        while waiting:
            part = waiting.pop()
            if part == "..":
                trail = trail[:-1] or [self._root]
                continue
            here = trail[-1]
            child = here.children.get(part)
            if child and child.kind == "l" and child.layer == self._number:
                if child.content.startswith("/"):
                    trail = [self._root]
                waiting += [step for step in child.content.split("/") if step not in ("", ".")][::-1]
                continue
            if not child or child.kind != "d":
                # Differs: a link of a lower layer is not followed, the entry's directory takes its place
                child = here.children[part] = Node("d", self._number)
            trail.append(child)
        return trail[-1]

    def _put(self, parent: Node, name: str, entry: E) -> None:
        old = parent.children.get(name)
        if entry.kind == "d":
            if not old or old.kind != "d":
                old = parent.children[name] = Node("d", self._number)
            self._dress(old, entry)
        elif entry.kind == "h":
            *parents, last = [part for part in entry.target.split("/") if part not in ("", ".")]
            parent.children[name] = self._way(parents).children[last]
        else:
            made = parent.children[name] = Node(entry.kind, self._number)
            self._dress(made, entry)

    def _dress(self, node: Node, entry: E) -> None:
        default = 0o755 if entry.kind == "d" else 0o644
        node.look = ((entry.mode or default) & 0o7777, entry.uid, entry.gid)
        node.mtime, node.layer, node.described = entry.mtime, self._number, True
        if entry.kind == "l":
            node.content = entry.target
        elif entry.kind == "f":
            node.content = hashlib.sha256(entry.body).hexdigest()
        elif entry.kind in "cb":
            node.content = f"{entry.device[0]}:{entry.device[1]}"

    def _hide(self, parent: Node, name: str, *, always: bool) -> None:
        node = parent.children.get(name)
        if node and (always or not self._keeps(node)):
            del parent.children[name]
        elif node and node.kind == "d":
            self._hide_children(node)
            if node.layer != self._number:
                node.look, node.mtime, node.layer = PLAIN, None, self._number

    def _hide_children(self, node: Node) -> None:
        for name in list(node.children):
            self._hide(node, name, always=False)

    def _keeps(self, node: Node) -> bool:
        """Whether this layer has put something there: its whiteouts are about the lower ones."""
        return node.layer == self._number or any(self._keeps(child) for child in node.children.values())
