"""Counts the house: rooms, import arrows, floors, circles, files and lines of a checkout.

    python -m tools.house [CHECKOUT ...]

A room is a folder of ``bench/`` or a module flat in it, ``methods/`` and ``tools/``. An arrow leads from a room
to another that it imports; imports for type checkers alone are left out. A floor holds the rooms that import none but
lower ones. Give two checkouts, such as a worktree of an older commit, to compare them.
"""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class House(NamedTuple):
    """What is counted of one checkout."""

    rooms: int
    arrows: int
    floors: int
    circles: int
    """Groups of rooms that import one another."""
    file_circles: int
    """The same among files."""
    files: int
    """Python files of ``bench/`` and ``methods/``."""
    lines: int
    """Their lines."""
    report_files: int
    result_files: int
    result_megabytes: float


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """``bench.count.ledger`` -> ``bench.count``; ``methods.lora`` -> ``methods``."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "bench" else parts[0]


def graph(root: Path) -> dict[str, set[str]]:
    """Modules that each module of the checkout imports."""
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in ("bench", "methods", "tools")
        for path in (root / folder).rglob("*.py")
    }

    def known(name: str) -> str | None:
        while name and name not in paths:
            name = name.rpartition(".")[0]
        return name or None

    return {
        module: {found for name in imported(path) if (found := known(name)) and found != module}
        for module, path in paths.items()
    }


def by_room(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """Rooms that each room imports; the package's own ``__init__`` is no room."""
    rooms: dict[str, set[str]] = {room_of(module): set() for module in modules if module != "bench"}
    for module, names in modules.items():
        if module != "bench":
            rooms[room_of(module)] |= {room_of(name) for name in names if name != "bench"} - {room_of(module)}
    return rooms


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of more than one node that reach one another."""

    def reach(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for name in edges[waiting.pop()]:
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return seen

    reached = {name: reach(name) for name in edges}
    groups = {frozenset(n for n in reached[name] if name in reached[n]) for name in edges if name in reached[name]}
    return [set(group) for group in groups]


def floors(edges: dict[str, set[str]]) -> int:
    """Rooms on the longest chain of imports; within a circle each room counts once."""
    known: dict[str, int] = {}

    def height(name: str, above: frozenset[str]) -> int:
        if name not in known:
            below = [height(n, above | {name}) for n in edges[name] if n not in above and n != name]
            if above & edges[name]:
                return 1 + max(below, default=0)  # inside a circle: another way in may stand higher
            known[name] = 1 + max(below, default=0)
        return known[name]

    return max(height(name, frozenset()) for name in edges)


def measured(root: Path) -> House:
    """Count the checkout at ``root``."""
    modules = graph(root)
    rooms = by_room(modules)
    product = [path for folder in ("bench", "methods") for path in (root / folder).rglob("*") if path.is_file()]
    python = [path for path in product if path.suffix == ".py"]
    kept = [root / "results" / name for name in ("published", "reference")]  # a user's own runs lie beside them
    results = [path for folder in kept for path in folder.rglob("*") if path.is_file()]
    return House(
        rooms=len(rooms),
        arrows=sum(map(len, rooms.values())),
        floors=floors(rooms),
        circles=len(circles(rooms)),
        file_circles=len(circles(modules)),
        files=len(python),
        lines=sum(len(path.read_text(encoding="utf-8").splitlines()) for path in python),
        report_files=len([p for p in python if "report" in p.relative_to(root).parts]),
        result_files=len(results),
        result_megabytes=round(sum(path.stat().st_size for path in results) / 1e6, 1),
    )


def main() -> None:
    """Print a table with a column for each checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[Path.cwd()], help="folders that contain bench/")
    roots = parser.parse_args().checkouts
    if strange := [str(root) for root in roots if not (root / "bench").is_dir()]:
        parser.error(f"{strange[0]}: contains no bench/; give a checkout of this project")
    houses = [measured(root) for root in roots]
    print("| |" + "|".join(f" {root.resolve().name} " for root in roots) + "|")
    print("|---|" + "---|" * len(roots))
    for field in House._fields:
        print(f"| {field.replace('_', ' ')} |" + "|".join(f" {getattr(house, field)} " for house in houses) + "|")


if __name__ == "__main__":
    main()
