"""Is a crystal stable? Relaxed by CHGNet and compared with the phases it could fall apart into.

Deng et al. 2023, *CHGNet as a pretrained universal neural network potential for charge-informed atomistic modelling*,
Nature Machine Intelligence 5; its weights come with the package. The hull is of the phases at hand: the pool's own
structures and one structure of each element. Energies are CHGNet's for all of them, in eV per atom, at 0 K.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from everlearn.discovery.needs import need

_STEPS = 200
_FORCE = 0.1  # eV/Å, below which a structure counts as relaxed
_BOX = 4.5  # Å, around a molecule that stands for a gas
_BONDS = {"H": 0.74, "N": 1.10, "O": 1.21, "F": 1.42, "Cl": 1.99, "Br": 2.28, "I": 2.67}  # Å


@dataclass(frozen=True)
class Relaxed:
    """A relaxed structure's energy, and what relaxing gained, in eV per atom."""

    formula: str
    energy: float
    gained: float
    converged: bool


@dataclass(frozen=True)
class Stability:
    """What was found of a candidate; energies in eV per atom.

    Attributes
    ----------
    energy, gained : float
        After relaxing, and how much that lowered it.
    converged : bool
        Whether the forces fell below 0.1 eV/Å within 200 steps.
    formation : float or None
        Relative to the elements; None where one of them has no structure.
    above_hull : float or None
        Above the most stable mixture of phases at hand; 0 or less if the candidate is more stable than all of them.
    phases : int
        How many phases the hull was made of, the elements included.
    missing : tuple of str
        Elements without a structure to compare with.
    """

    energy: float
    gained: float
    converged: bool
    formation: float | None
    above_hull: float | None
    phases: int
    missing: tuple[str, ...] = ()

    def refused(self, limit: float) -> str | None:
        """Why it shall not be proposed, in one line; None if it may be.

        Examples
        --------
        >>> Stability(-3.6, 0.01, True, -1.9, 0.3, 3).refused(0.1)
        '0.300 eV/atom above the hull of 3 phases; expected at most 0.1'
        """
        if not self.converged:
            return f"it does not relax within {_STEPS} steps"
        if self.above_hull is not None and self.above_hull > limit:
            return f"{self.above_hull:.3f} eV/atom above the hull of {self.phases} phases; expected at most {limit:g}"
        return None

    def words(self) -> str:
        """One clause."""
        if self.above_hull is None:
            absent = ", ".join(self.missing)
            return f"no structure of {absent} to compare with; relaxing gained {self.gained:.3f} eV/atom"
        return f"{self.above_hull:+.3f} eV/atom against the hull of {self.phases} phases"

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Stability:
        """From the journal."""
        return cls(**kept | {"missing": tuple(kept["missing"])})


def stability_of(own: Relaxed, phases: Sequence[Relaxed]) -> Stability:
    """How a candidate compares with the phases it could fall apart into, the elements among them.

    Examples
    --------
    >>> phases = [Relaxed("Na", -1.3, 0.0, True), Relaxed("Cl2", -1.9, 0.0, True)]
    >>> found = stability_of(Relaxed("NaCl", -3.6, 0.01, True), phases)
    >>> round(found.formation, 2), round(found.above_hull, 2)
    (-2.0, -2.0)
    >>> stability_of(Relaxed("NaCl", -3.6, 0.01, True), phases[:1]).missing
    ('Cl',)
    """
    diagram, core = need("pymatgen.analysis.phase_diagram"), need("pymatgen.core")

    def entry(phase: Relaxed) -> Any:
        composition = core.Composition(phase.formula)
        return diagram.PDEntry(composition, phase.energy * composition.num_atoms)

    entries = [entry(phase) for phase in phases if phase.converged]
    elements = {str(each.composition.elements[0]) for each in entries if each.composition.is_element}
    missing = tuple(sorted({str(each) for each in core.Composition(own.formula).elements} - elements))
    if missing:
        return Stability(own.energy, own.gained, own.converged, None, None, len(entries), missing)
    hull, mine = diagram.PhaseDiagram(entries), entry(own)
    above = hull.get_decomp_and_e_above_hull(mine, allow_negative=True)[1]
    formation = float(hull.get_form_energy_per_atom(mine))
    return Stability(own.energy, own.gained, own.converged, formation, float(above), len(entries))


def relax(structure: Any) -> Relaxed:
    """Positions and cell, by CHGNet."""
    dynamics = need("chgnet.model", "crystals")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        found = dynamics.StructOptimizer(model=_model(), use_device="cpu").relax(
            structure, fmax=_FORCE, steps=_STEPS, verbose=False, assign_magmoms=False
        )
    energies = found["trajectory"].energies
    first, last = (float(energies[i]) / len(structure) for i in (0, -1))
    converged = math.isfinite(last) and len(energies) <= _STEPS  # the first is before any step
    return Relaxed(structure.composition.formula.replace(" ", ""), last, first - last, converged)


def element(symbol: str) -> Any:
    """A structure of an element at hand in ASE's tables, a molecule in a box for gases; None where there is none."""
    core = need("pymatgen.core")
    if symbol in _BONDS:
        half = _BONDS[symbol] / 2 / _BOX
        return core.Structure(core.Lattice.cubic(_BOX), [symbol] * 2, [[0.5, 0.5, 0.5 - half], [0.5, 0.5, 0.5 + half]])
    if symbol == "S":  # a crown of eight
        ring = [
            (2.346 * math.cos(k * math.pi / 4), 2.346 * math.sin(k * math.pi / 4), 0.495 * (-1) ** k) for k in range(8)
        ]
        return core.Structure(core.Lattice.cubic(9.0), ["S"] * 8, ring, coords_are_cartesian=True)
    if symbol == "P":  # black phosphorus
        lattice = core.Lattice.orthorhombic(3.313, 10.473, 4.374)
        return core.Structure.from_spacegroup("Cmce", lattice, ["P"], [[0, 0.1017, 0.0806]])
    if symbol in ("Se", "Te"):  # chains
        a, c, x = {"Se": (4.366, 4.954, 0.225), "Te": (4.457, 5.927, 0.264)}[symbol]
        return core.Structure.from_spacegroup("P3_121", core.Lattice.hexagonal(a, c), [symbol], [[x, 0, 1 / 3]])
    build = need("ase.build", "crystals")
    try:
        made = build.bulk(symbol, **({"crystalstructure": "fcc", "a": 3.5} if symbol == "Mn" else {}))
    except (ValueError, KeyError, RuntimeError, NotImplementedError):
        return None
    return need("pymatgen.io.ase").AseAtomsAdaptor.get_structure(made)


@cache
def _model() -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return need("chgnet.model", "crystals").CHGNet.load(use_device="cpu", verbose=False)
