"""Which featuriser fits a pool."""

from __future__ import annotations

from pathlib import Path

from everlearn.discovery.columns import ColumnFeaturiser
from everlearn.discovery.compositions import CompositionFeaturiser
from everlearn.discovery.molecules import MoleculeFeaturiser
from everlearn.discovery.pool import Pool

Featuriser = MoleculeFeaturiser | CompositionFeaturiser | ColumnFeaturiser


def featuriser_of(pool: Pool, folder: Path | None) -> Featuriser:
    """What turns this pool's candidates into features."""
    if pool.inputs == "columns":
        return ColumnFeaturiser(pool.columns, [candidate.cells for candidate in pool.candidates])
    texts = [candidate.text for candidate in pool.candidates]
    if pool.inputs == "composition":
        return CompositionFeaturiser(texts)
    return MoleculeFeaturiser(texts, None if folder is None else folder / "features.npz")
