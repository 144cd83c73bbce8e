"""What can be taken out of a candidate, and what it looks like without: atoms, elements, columns.

A mask is a tuple of places: atom numbers, element symbols or column names. Molecules are masked as pictures are: the
atoms stay where they are and lose their kind (dummy atoms), so the rest keeps its surroundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from everlearn.discovery import compositions, molecules
from everlearn.discovery.columns import ColumnFeaturiser
from everlearn.discovery.compositions import CompositionFeaturiser
from everlearn.discovery.features import Features
from everlearn.discovery.molecules import MoleculeFeaturiser
from everlearn.discovery.pool import Candidate

Mask = tuple[Any, ...]
_DRAWS = 8  # values that stand in for a masked column


@dataclass(frozen=True)
class Part:
    """A nameable part of a candidate."""

    name: str
    mask: Mask


class Masker(Protocol):
    """How one kind of candidate is taken apart. ``features`` gives ``draws`` rows for each mask, to be averaged."""

    draws: int

    def parts(self, candidate: Candidate) -> list[Part]:
        """What can be named."""

    def features(self, candidate: Candidate, masks: Sequence[Mask]) -> Features:
        """The candidate without each mask's places, ``[len(masks) · draws]``."""

    def size(self, mask: Mask) -> Any:
        """What a mask has in common with random ones: masks of the same size share them."""

    def random(self, candidate: Candidate, mask: Mask, n: int, rng: np.random.Generator) -> list[Mask]:
        """n other masks that take out as much."""


class MoleculeMasker:
    """Fragments between the bonds that join rings to each other and to chains; random masks are connected too."""

    draws = 1

    def __init__(self, featuriser: MoleculeFeaturiser) -> None:
        self._featuriser = featuriser

    def parts(self, candidate: Candidate) -> list[Part]:
        """Ring systems and chains, and the places where two of them meet, by SMILES."""
        mol = molecules.read(candidate.text)
        whole = mol.GetNumAtoms()
        found = [each for each in _fragments(mol) if len(each) < whole] or [(i,) for i in range(whole) if whole > 1]
        found += [each for each in _joints(mol) if len(each) < whole and each not in found]
        return [Part(molecules.fragment_name(mol, atoms), tuple(atoms)) for atoms in found]

    def environments(self, candidate: Candidate) -> list[Mask]:
        """Each atom with its neighbours."""
        mol = molecules.read(candidate.text)
        return [tuple(sorted({a.GetIdx(), *(b.GetIdx() for b in a.GetNeighbors())})) for a in mol.GetAtoms()]

    def features(self, candidate: Candidate, masks: Sequence[Mask]) -> Features:
        """Atoms of a mask become dummy atoms."""
        mol = molecules.read(candidate.text)
        return self._featuriser.of_mols([molecules.masked(mol, mask) for mask in masks])

    def size(self, mask: Mask) -> Any:
        """Atoms."""
        return len(mask)

    def random(self, candidate: Candidate, mask: Mask, n: int, rng: np.random.Generator) -> list[Mask]:
        """Connected groups of as many atoms, grown from random ones."""
        mol = molecules.read(candidate.text)
        found: list[Mask] = []
        for _ in range(20 * n):
            group = _grown(mol, len(mask), rng)
            if group != tuple(sorted(mask)) and len(found) < n:
                found.append(group)
        return found


class CompositionMasker:
    """Elements; the others' amounts stay in proportion."""

    draws = 1

    def __init__(self, featuriser: CompositionFeaturiser) -> None:
        self._featuriser = featuriser

    def parts(self, candidate: Candidate) -> list[Part]:
        """The elements, where there are two or more."""
        amounts = compositions.read(candidate.text)
        return [Part(symbol, (symbol,)) for symbol in amounts] if len(amounts) > 1 else []

    def features(self, candidate: Candidate, masks: Sequence[Mask]) -> Features:
        """A mask holds elements, or (element, share of its amount) to take out a part."""
        amounts = compositions.read(candidate.text)
        without = []
        for mask in masks:
            shares: dict[str, float] = dict(place if isinstance(place, tuple) else (place, 1.0) for place in mask)
            left = {symbol: n * (1 - shares.get(symbol, 0.0)) for symbol, n in amounts.items()}
            without.append({symbol: n for symbol, n in left.items() if n > 1e-9})
        return self._featuriser.of_amounts(without)

    def size(self, mask: Mask) -> Any:
        """Its elements."""
        return mask

    def random(self, candidate: Candidate, mask: Mask, n: int, rng: np.random.Generator) -> list[Mask]:
        """The same amount taken from the other elements in a random order."""
        amounts = compositions.read(candidate.text)
        wanted = min(sum(amounts[symbol] for symbol in mask), 0.999 * sum(amounts.values()))
        found: list[Mask] = []
        for _ in range(n):
            others = [symbol for symbol in amounts if symbol not in mask]
            left, places = wanted, []
            for symbol in [*rng.permutation(others), *mask]:
                taken = min(left, amounts[symbol])
                if taken > 0:
                    places.append((str(symbol), taken / amounts[symbol]))
                left -= taken
            found.append(tuple(places))
        return found


class ColumnMasker:
    """Columns; a masked one takes the values of other rows of the pool, in turn."""

    draws = _DRAWS

    def __init__(self, featuriser: ColumnFeaturiser, pool: Sequence[Candidate], seed: int) -> None:
        self._featuriser = featuriser
        rows = np.random.default_rng(seed).choice(len(pool), _DRAWS, replace=len(pool) < _DRAWS)
        self._stand_ins = [pool[int(row)].cells for row in rows]

    def parts(self, candidate: Candidate) -> list[Part]:
        """The columns, with this candidate's value."""
        names = [column.name for column in self._featuriser.columns]
        return [Part(f"{name} = {candidate.cells.get(name, '').strip() or 'missing'}", (name,)) for name in names]

    def features(self, candidate: Candidate, masks: Sequence[Mask]) -> Features:
        """One row for each stand-in of each mask."""
        return self._featuriser(
            [
                candidate.cells | {name: other.get(name, "") for name in mask}
                for mask in masks
                for other in self._stand_ins
            ]
        )

    def size(self, mask: Mask) -> Any:
        """Columns."""
        return len(mask)

    def random(self, candidate: Candidate, mask: Mask, n: int, rng: np.random.Generator) -> list[Mask]:
        """As many other columns."""
        others = [column.name for column in self._featuriser.columns if column.name not in mask]
        if len(others) < len(mask):
            return []
        return [tuple(str(name) for name in rng.choice(others, len(mask), replace=False)) for _ in range(n)]


def masker_of(
    featuriser: MoleculeFeaturiser | CompositionFeaturiser | ColumnFeaturiser, pool: Sequence[Candidate], seed: int
) -> Masker:
    """The masker that fits a featuriser."""
    if isinstance(featuriser, MoleculeFeaturiser):
        return MoleculeMasker(featuriser)
    if isinstance(featuriser, CompositionFeaturiser):
        return CompositionMasker(featuriser)
    return ColumnMasker(featuriser, pool, seed)


def _cut(mol: Any) -> list[Any]:
    """Single bonds outside rings with a ring atom at one end at least."""
    return [
        bond
        for bond in mol.GetBonds()
        if not bond.IsInRing()
        and bond.GetBondTypeAsDouble() == 1
        and (bond.GetBeginAtom().IsInRing() or bond.GetEndAtom().IsInRing())
    ]


def _joints(mol: Any) -> list[tuple[int, ...]]:
    """Both atoms of each bond that is cut, with their neighbours."""
    found = []
    for bond in _cut(mol):
        ends = (bond.GetBeginAtom(), bond.GetEndAtom())
        found.append(tuple(sorted({atom.GetIdx() for end in ends for atom in (end, *end.GetNeighbors())})))
    return list(dict.fromkeys(found))


def _fragments(mol: Any) -> list[tuple[int, ...]]:
    """Atoms left together when these bonds are cut."""
    cut = {bond.GetIdx() for bond in _cut(mol)}
    unseen, found = set(range(mol.GetNumAtoms())), []
    while unseen:
        group, edge = set(), [min(unseen)]
        while edge:
            atom = edge.pop()
            if atom in group:
                continue
            group.add(atom)
            for bond in mol.GetAtomWithIdx(atom).GetBonds():
                if bond.GetIdx() not in cut:
                    edge.append(bond.GetOtherAtomIdx(atom))
        unseen -= group
        found.append(tuple(sorted(group)))
    return found


def _grown(mol: Any, size: int, rng: np.random.Generator) -> Mask:
    """A connected group of atoms; a molecule in pieces may need a second start."""
    group: set[int] = set()
    while len(group) < size:
        edge = sorted({b.GetIdx() for i in group for b in mol.GetAtomWithIdx(i).GetNeighbors()} - group)
        choices = edge or sorted(set(range(mol.GetNumAtoms())) - group)
        group.add(int(rng.choice(choices)))
    return tuple(sorted(group))
