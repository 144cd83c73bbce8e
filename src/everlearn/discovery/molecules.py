"""Molecules by RDKit: reading SMILES, Morgan environments as counts, descriptors."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from everlearn.discovery.features import Array, Block, Features, Scale
from everlearn.discovery.needs import need
from everlearn.errors import RunError

RADIUS = 2
_CELLS = 200_000_000  # of a pool's 0/1 table: a very large pool keeps its most frequent environments alone
_LEVELS = 8  # a count of more than this counts as this
_RARE = 2  # an environment that fewer molecules of the pool have says nothing about the others


def read(text: str) -> Any:
    """An RDKit molecule, or a `ValueError` that says in one line what is wrong.

    Examples
    --------
    >>> read("C1CC")
    Traceback (most recent call last):
    ...
    ValueError: invalid SMILES 'C1CC'
    """
    chem = need("rdkit.Chem")
    with _quiet():
        mol = chem.MolFromSmiles(text.strip()) if text.strip() else None
    if mol is None or mol.GetNumAtoms() == 0:
        raise ValueError(f"invalid SMILES {text!r}")
    return mol


def canonical(text: str) -> str:
    """The same text for the same molecule, however it was written.

    Examples
    --------
    >>> canonical("OCC") == canonical("C(C)O")
    True
    """
    return str(need("rdkit.Chem").MolToSmiles(read(text)))


def environments(mol: Any) -> Counter[int]:
    """Counts of Morgan environments up to radius 2, by their unfolded hash."""
    return Counter(_morgan().GetSparseCountFingerprint(mol).GetNonzeroElements())


def descriptors(mol: Any) -> list[float]:
    """RDKit's physical and structural descriptors, in a fixed order; NaN where one cannot be computed."""
    values = []
    with _quiet():
        for _, function in _descriptors():
            try:
                values.append(float(function(mol)))
            except (ValueError, ZeroDivisionError, RuntimeError, OverflowError):
                values.append(float("nan"))
    return values


class MoleculeFeaturiser:
    """Turn SMILES into features; the environments and scales are those of the pool it was made of.

    Parameters
    ----------
    pool : sequence of str
        Valid SMILES.
    file : Path, optional
        Where environments and descriptors of the pool, which take milliseconds each, are kept between calls.

    Examples
    --------
    >>> featuriser = MoleculeFeaturiser(["CCO", "CCN", "CCC", "c1ccccc1O"])
    >>> [block.kind for block in featuriser(["CCF"]).blocks]
    ['tanimoto', 'matern']
    """

    def __init__(self, pool: Sequence[str], file: Path | None = None) -> None:
        counts, raw = _kept(pool, file)
        owners: Counter[tuple[int, int]] = Counter()
        for each in counts:
            owners.update(_unary(each))
        rare = _RARE if len(pool) > 50 else 1
        frequent = sorted((key for key, n in owners.items() if n >= rare), key=lambda key: (-owners[key], key))
        self._column = {key: i for i, key in enumerate(frequent[: max(256, _CELLS // len(pool))])}
        self._scale = Scale.of(_tame(raw))
        self.pool = self._features(counts, raw)

    def __call__(self, texts: Sequence[str]) -> Features:
        """Features of other SMILES."""
        return self.of_mols([read(text) for text in texts])

    def of_mols(self, mols: Sequence[Any]) -> Features:
        """Features of RDKit molecules, which may hold dummy atoms."""
        counts = [environments(mol) for mol in mols]
        raw = np.array([descriptors(mol) for mol in mols], dtype=np.float64).reshape(len(mols), -1)
        return self._features(counts, raw)

    def _features(self, counts: Sequence[Counter[int]], raw: Array) -> Features:
        bits = np.zeros((len(counts), len(self._column)))
        for row, each in enumerate(counts):
            bits[row, [self._column[key] for key in _unary(each) if key in self._column]] = 1
        return Features((Block("tanimoto", bits), Block("matern", self._scale.apply(_tame(raw)))))


def _kept(pool: Sequence[str], file: Path | None) -> tuple[list[Counter[int]], Array]:
    """Environments and descriptors of a pool, from the file where it holds them for this pool and this RDKit."""
    digest = hashlib.sha256("\n".join([need("rdkit").__version__, *pool]).encode()).hexdigest()
    if file is not None and file.exists():
        try:
            with np.load(file, allow_pickle=False) as kept:
                if str(kept["digest"]) == digest:
                    counts: list[Counter[int]] = [Counter() for _ in pool]
                    for row, key, n in zip(kept["rows"].tolist(), kept["keys"].tolist(), kept["counts"].tolist()):
                        counts[row][key] = n
                    return counts, kept["descriptors"]
        except (OSError, ValueError, KeyError, IndexError, BadZipFile):
            pass  # damaged: it is computed and written again
    mols = [read(text) for text in pool]
    counts = [environments(mol) for mol in mols]
    raw = np.array([descriptors(mol) for mol in mols], dtype=np.float64)
    if file is not None:
        flat = [(row, key, n) for row, each in enumerate(counts) for key, n in each.items()]
        rows, keys, times = (np.array(column, dtype=np.int64) for column in zip(*flat))
        beside = file.with_name(f".{file.name}")
        try:
            with beside.open("wb") as out:
                np.savez_compressed(out, digest=digest, rows=rows, keys=keys, counts=times, descriptors=raw)
            beside.rename(file)
        except OSError as error:
            raise RunError(f"cannot write {file}: {error.strerror or error}; make room for it, or move it") from error
    return counts, raw


def _unary(counts: Counter[int]) -> Iterable[tuple[int, int]]:
    """(environment, 1) … (environment, count): on these 0/1 features Tanimoto is the min–max kernel of the counts."""
    return [(key, level) for key, n in counts.items() for level in range(1, min(n, _LEVELS) + 1)]


def _tame(raw: Array) -> Array:
    """Descriptors range over many powers of ten; sign(x) log(1 + |x|) keeps their order and tames the largest."""
    return np.sign(raw) * np.log1p(np.abs(np.where(np.abs(raw) < 1e30, raw, np.nan)))


@cache
def _morgan() -> Any:
    return need("rdkit.Chem.rdFingerprintGenerator").GetMorganGenerator(radius=RADIUS, includeChirality=False)


@cache
def _descriptors() -> tuple[tuple[str, Any], ...]:
    left_out = {"Ipc", "AvgIpc", "SPS"}  # slow, or of no bounded size
    listed = need("rdkit.Chem.Descriptors").descList
    return tuple((name, function) for name, function in listed if name not in left_out)


def _quiet() -> Any:
    """RDKit prints its complaints on standard error; ours are one line each, with the row."""
    return need("rdkit.rdBase").BlockLogs()


def masked(mol: Any, atoms: Sequence[int]) -> Any:
    """The molecule with some atoms made dummy atoms, which fit any bond and match no environment of the pool.

    Examples
    --------
    >>> need("rdkit.Chem").MolToSmiles(masked(read("CCO"), [2]))
    '*CC'
    """
    chem = need("rdkit.Chem")
    edited = chem.RWMol(mol)
    for i in atoms:
        atom = edited.GetAtomWithIdx(int(i))
        dummy = chem.Atom(0)
        dummy.SetIsAromatic(atom.GetIsAromatic())
        edited.ReplaceAtom(int(i), dummy)
    with _quiet():
        if chem.SanitizeMol(edited, catchErrors=True) != chem.SanitizeFlags.SANITIZE_NONE:
            edited.UpdatePropertyCache(strict=False)
            chem.FastFindRings(edited)
    return edited.GetMol()


def fragment_name(mol: Any, atoms: Sequence[int]) -> str:
    """SMILES of a group of atoms as they stand in the molecule.

    Examples
    --------
    >>> fragment_name(read("c1ccccc1CO"), [6, 7])
    'CO'
    """
    return str(need("rdkit.Chem").MolFragmentToSmiles(mol, [int(i) for i in atoms]))


def draw(text: str, weights: Sequence[float] | None = None, size: tuple[int, int] = (320, 240)) -> str:
    """An SVG of the molecule; atoms with positive weight blue, negative orange, as strongly as they weigh (−1 to 1)."""
    chem, drawing = need("rdkit.Chem"), need("rdkit.Chem.Draw.rdMolDraw2D")
    mol = read(text)
    canvas = drawing.MolDraw2DSVG(*size)
    canvas.drawOptions().clearBackground = False
    drawn = drawing.PrepareMolForDrawing(mol, kekulize=False)
    colours = {}
    for i, weight in enumerate(weights if weights is not None else []):
        strength = min(1.0, abs(float(weight)))
        if strength > 0.05:
            full = (0.35, 0.6, 1.0) if weight > 0 else (1.0, 0.6, 0.25)
            colours[i] = tuple(1 - strength * (1 - channel) for channel in full)
    bonds = {
        bond.GetIdx(): tuple(
            (a + b) / 2 for a, b in zip(colours[bond.GetBeginAtomIdx()], colours[bond.GetEndAtomIdx()])
        )
        for bond in chem.Mol(drawn).GetBonds()
        if bond.GetBeginAtomIdx() in colours and bond.GetEndAtomIdx() in colours
    }
    canvas.DrawMolecule(
        drawn,
        highlightAtoms=list(colours),
        highlightAtomColors=colours,
        highlightBonds=list(bonds),
        highlightBondColors=bonds,
    )
    canvas.FinishDrawing()
    svg = str(canvas.GetDrawingText())
    return svg[svg.index("<svg") :]
