"""Imports go down the house's floors only."""

import ast
from pathlib import Path

FLOORS = {
    "errors": 0,
    "kinds": 0,
    "places": 0,
    "data": 1,
    "valuation": 1,
    "memory": 2,
    "models": 2,
    "metrics": 2,
    "learners": 3,
    "explainers": 3,
    "scaling": 3,
    "runs": 4,
    "report": 4,
    "discovery": 4,
    "bench": 5,
    "server": 5,
    "cli": 6,
}
HOUSE = Path(__file__).parents[1] / "src" / "everlearn"


def imports(file: Path) -> set[str]:
    """Parts of everlearn that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("everlearn.")}
    return found


def test_imports_go_down_only():
    wrong = []
    for file in sorted(HOUSE.rglob("*.py")):
        part = file.relative_to(HOUSE).parts[0].removesuffix(".py")
        if part in ("__init__", "__main__"):  # the front doors show all floors
            continue
        for other in imports(file):
            if other != part and FLOORS[other] > FLOORS[part]:
                wrong.append(f"{file.relative_to(HOUSE)} imports everlearn.{other}")
    assert not wrong


def test_every_part_has_a_floor():
    assert {folder.name for folder in HOUSE.iterdir() if folder.is_dir() and folder.name != "__pycache__"} <= set(
        FLOORS
    )
