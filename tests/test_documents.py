"""Code in the documents runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parents[1]
FILES = [HERE / "README.md", HERE / "CONTRIBUTING.md", *sorted((HERE / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{file.name}:{i}")
    for file in FILES
    for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", file.read_text(encoding="utf-8"), re.S | re.M))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block, capsys):
    torch.manual_seed(0)
    exec(compile(block, "document", "exec"), {"__name__": "document"})


def test_the_readme_shows_the_two_commands():
    text = (HERE / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text


def test_documents_name_no_file_that_is_missing():
    for file in FILES:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file.name} points to {target}"
