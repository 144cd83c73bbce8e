"""``everlearn explain``: why a run says what it says of pictures or texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.text import Text

from everlearn.cli import show
from everlearn.cli.bar import bar
from everlearn.cli.given import expanded, open_run, read_given
from everlearn.data.dicom import is_dicom
from everlearn.errors import RunError, SettingError
from everlearn.explainers import EXPLAINERS, TEXT_EXPLAINERS, Explanation
from everlearn.explainers import explain as explain_inputs
from everlearn.places import check_place
from everlearn.report import Case, comparable, explanation_page, pictures
from everlearn.report.capture import secondary_capture
from everlearn.report.texts import text_of

_METHODS = f"of {', '.join(EXPLAINERS)}; for texts {', '.join(TEXT_EXPLAINERS)}"


def explain(
    run: Annotated[Path, typer.Argument(help="directory of the run")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="pictures, DICOM files, folders of them; texts, tables of texts")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="a text itself, for a run on texts; repeatable")] = None,
    method: Annotated[str | None, typer.Option(help=_METHODS)] = None,
    target: Annotated[str | None, typer.Option(help="class to explain; by default the predicted one")] = None,
    cutoff: Annotated[float, typer.Option(help="probability below which no finding is drawn", min=0, max=1)] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="directory for the page, overlays and maps; by default RUN/explanations")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Explain FILES: a heat map, remembered cases for and against, words, and how faithful the map measured to be."""
    files, folder = expanded(files or []), out or run / "explanations"
    with open_run(run) as opened, bar("explaining", quiet=json) as tell:
        learner, names = opened.learner(), opened.journal.class_names()
        code = _code(target, {names[code]: code for code in learner.classes.codes})
        inputs, given = read_given(opened, files, text or [])
        check_place(folder)
        of_texts = opened.config.data.of_texts
        explanations = explain_inputs(
            learner, inputs, code, explainer=method or (None if of_texts else "frugal_sise"), class_names=names,
            cutoff=cutoff, progress=tell,
        )  # fmt: skip
    shown = given if of_texts else [file.name for file in files]
    cases = [Case(sample, name, None, e) for sample, name, e in zip(inputs, shown, explanations)]
    page = explanation_page(cases, names, f"{len(cases)} explained by {run.name}", folder / "explanations.html")
    if of_texts:
        rows = [_of_text(case, names) for case in cases]
    else:
        stems = _distinct([file.stem for file in files])
        rows = [_keep(folder, stem, case, names, file) for stem, case, file in zip(stems, cases, files)]
    if json:
        show.print_json({"run": str(run), "page": str(page), "explanations": rows})
        return
    for row in rows:
        show.out.print(Text.assemble((row["file"], "bold"), f": {row['words']}"))
    show.out.print(f"page: {page.absolute()}", soft_wrap=True)


def _code(target: str | None, codes: dict[str, int]) -> int | None:
    if target is not None and target not in codes:
        raise SettingError(f"the run knows no class {target!r}; it knows {', '.join(codes)}")
    return None if target is None else codes[target]


def _distinct(stems: list[str]) -> list[str]:
    """Names for files, safe and all different, also from the names of what is written beside them."""
    taken: set[str] = set()
    names = []
    for stem in (re.sub(r"[^\w.-]", "_", stem) or "picture" for stem in stems):
        name, number = stem, 2
        while taken & {name, _comparable(name)}:
            name, number = f"{stem}-{number}", number + 1
        taken |= {name, _comparable(name)}
        names.append(name)
    return names


def _comparable(stem: str) -> str:
    return f"{stem}-comparable"


def _keep(folder: Path, stem: str, case: Case, names: dict[int, str], origin: Path) -> dict[str, Any]:
    """Write overlays, map and, for a DICOM file, a secondary capture; return what JSON says of the case."""
    e: Explanation = case.explanation
    overlay = pictures.overlay(case.picture, e.map)
    try:
        Image.fromarray(overlay).save(folder / f"{stem}.png")
        Image.fromarray(comparable(case)).save(folder / f"{_comparable(stem)}.png")
        np.save(folder / f"{stem}.npy", e.map[0].numpy())
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}") from error
    dicom = secondary_capture(overlay, e.words, folder / f"{stem}.dcm", origin) if is_dicom(origin) else None
    return _said(case, names) | {
        "overlay": str(folder / f"{stem}.png"),
        "comparable": str(folder / f"{_comparable(stem)}.png"),
        "dicom": None if dicom is None else str(dicom),
        "map": str(folder / f"{stem}.npy"),
    }


def _of_text(case: Case, names: dict[int, str]) -> dict[str, Any]:
    """What JSON says of a text: each word with the map's value, and the remembered texts."""
    e, found = case.explanation, _said(case, names)
    values = [round(value, 6) for value in e.map.flatten().tolist()]
    for row, x in zip(found["evidence"], e.evidence or []):
        row["text"] = text_of(x.picture)
    return found | {"map": [[part.strip(), value] for part, value in zip(e.parts, values)], "not_read": e.rest}


def _said(case: Case, names: dict[int, str]) -> dict[str, Any]:
    e: Explanation = case.explanation
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
    }
