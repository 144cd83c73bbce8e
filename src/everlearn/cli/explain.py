"""``everlearn explain``: why a run says what it says of pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

from everlearn.cli import show
from everlearn.cli.bar import bar
from everlearn.data import read_picture
from everlearn.data.decode import SUFFIXES
from everlearn.data.dicom import is_dicom
from everlearn.errors import DataError, RunError, SettingError
from everlearn.explainers import EXPLAINERS, Explanation
from everlearn.explainers import explain as explain_inputs
from everlearn.report import Case, comparable, explanation_page, pictures
from everlearn.report.capture import secondary_capture
from everlearn.runs import Run


def explain(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    files: Annotated[list[Path], typer.Argument(help="pictures, DICOM files, or folders of them")],
    method: Annotated[str, typer.Option(help=f"of {', '.join(EXPLAINERS)}")] = "frugal_sise",
    target: Annotated[str | None, typer.Option(help="class to explain; by default the predicted one")] = None,
    cutoff: Annotated[float, typer.Option(help="probability below which no finding is drawn", min=0, max=1)] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="directory for the page, overlays and maps; by default RUN/explanations")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Explain FILES: a heat map, remembered cases for and against, words, and how faithful the map measured to be."""
    files = _expanded(files)
    with Run.open(run) as opened, bar("explaining", quiet=json) as tell:
        learner, names = opened.learner(), opened.journal.class_names()
        code = _code(target, {names[code]: code for code in learner.classes.codes})
        channels, size, _ = opened.shape
        inputs = torch.stack([torch.from_numpy(read_picture(file, channels, size)) for file in files])
        explanations = explain_inputs(
            learner, inputs, code, explainer=method, class_names=names, cutoff=cutoff, progress=tell
        )
    folder = out or run / "explanations"
    stems = _distinct([file.stem for file in files])
    cases = [Case(picture, file.name, None, e) for picture, file, e in zip(inputs, files, explanations)]
    page = explanation_page(cases, names, f"{len(files)} explained by {run.name}", folder / "explanations.html")
    rows = [_keep(folder, stem, case, names, file) for stem, case, file in zip(stems, cases, files)]
    if json:
        show.print_json({"run": str(run), "page": str(page), "explanations": rows})
        return
    for row in rows:
        show.console.print(f"[bold]{row['file']}[/]: {row['words']}")
    show.console.print(f"page: {page.absolute()}", soft_wrap=True)


def _expanded(files: list[Path]) -> list[Path]:
    """Folders replaced by the pictures and DICOM files below them, in order."""
    found: list[Path] = []
    for file in files:
        if not file.is_dir():
            found.append(file)
            continue
        inside = sorted(p for p in file.rglob("*") if p.is_file() and not p.name.startswith("."))
        inside = [p for p in inside if p.suffix.lower() in SUFFIXES or is_dicom(p)]
        if not inside:
            raise DataError(f"{file} holds no picture; expected JPEG, PNG, BMP, TIFF, WebP or DICOM files")
        found += inside
    return found


def _code(target: str | None, codes: dict[str, int]) -> int | None:
    if target is not None and target not in codes:
        raise SettingError(f"the run knows no class {target!r}; it knows {', '.join(codes)}")
    return None if target is None else codes[target]


def _distinct(stems: list[str]) -> list[str]:
    """Names for files, safe and all different."""
    taken: set[str] = set()
    for stem in (re.sub(r"[^\w.-]", "_", stem) or "picture" for stem in stems):
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        stems = [*stems[1:], name]
    return stems


def _keep(folder: Path, stem: str, case: Case, names: dict[int, str], origin: Path) -> dict[str, Any]:
    """Write overlays, map and, for a DICOM file, a secondary capture; return what JSON says of the case."""
    e: Explanation = case.explanation
    overlay = pictures.overlay(case.picture, e.map)
    try:
        Image.fromarray(overlay).save(folder / f"{stem}.png")
        Image.fromarray(comparable(case)).save(folder / f"{stem}-comparable.png")
        np.save(folder / f"{stem}.npy", e.map[0].numpy())
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}") from error
    dicom = secondary_capture(overlay, e.words, folder / f"{stem}.dcm", origin) if is_dicom(origin) else None
    return {
        "file": case.name,
        "class": names[e.code],
        "probability": e.probability,
        "words": e.words,
        "verdict": e.verdict,
        "insertion": e.faithfulness.insertion,
        "deletion": e.faithfulness.deletion,
        "random_insertion": e.faithfulness.random_insertion,
        "random_deletion": e.faithfulness.random_deletion,
        "evidence": [
            {"id": x.id, "class": names[x.code], "value": x.value, "step": x.step, "distance": x.distance}
            for x in e.evidence or []
        ],
        "drawn": e.drawn,
        "overlay": str(folder / f"{stem}.png"),
        "comparable": str(folder / f"{stem}-comparable.png"),
        "dicom": None if dicom is None else str(dicom),
        "map": str(folder / f"{stem}.npy"),
    }
