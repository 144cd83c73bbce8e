"""Candidates that no table lists: neighbours of the best molecules and compositions, filtered before they are proposed.

Molecules: small reactions (an aromatic CH becomes N or takes a substituent, a substituent is exchanged, a chain grows)
and recombined BRICS fragments (Degen et al. 2008, *On the art of compiling and using 'drug-like' chemical fragment
spaces*, ChemMedChem 3). Kept are those no harder to make, by the synthetic accessibility score of Ertl & Schuffenhauer
2009 (J. Cheminform. 1:8), than 95 % of the pool.

Compositions: one ion is replaced by another of the same charge, the most probable first (Hautier et al. 2011, *Data
mined ionic substitutions for the discovery of new compounds*, Inorg. Chem. 50), so that charges stay balanced. Alloys,
whose charges do not balance by any common oxidation states, are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from everlearn.discovery import compositions, molecules
from everlearn.discovery.needs import need
from everlearn.discovery.search import Search
from everlearn.errors import SettingError

_SUBSTITUENTS = ("F", "Cl", "C", "OC", "N", "C#N", "C(F)(F)F", "C(C)(C)C")
_REACTIONS = (
    "[cH:1]>>[n;H0:1]",
    *(f"[cH:1]>>[c:1]{group}" for group in _SUBSTITUENTS),
    *(f"[c:1]-[F,Cl,Br,CH3,OH,NH2]>>[c:1]-{group}" for group in _SUBSTITUENTS),
    *(f"[CH3:1]>>[CH2:1]{group}" for group in ("C", "O", "F", "N")),
    "[CX4;CH2:1]>>[O;H0:1]",
    "[CX4;CH2:1]([*:2])[*:3]>>[*:2][*:3]",
)
_UNSTABLE = ("[O;X2][O;X2]", "[N;X3][F,Cl,Br,I]", "[O;X2][F,Cl,Br,I]", "[N;X3][O;X2][N;X3]", "C=[CH][OH]")
_PARENTS = 10
_FRAGMENTS = 20  # BRICS fragments that are recombined
_LARGER = 1.2  # heavy atoms over the largest parent's, at most
_ELEMENTS, _ATOMS = 6, 60  # of a formula, above which guessing oxidation states takes too long
_IONS = 8  # replacements tried for each ion


def neighbours_of(search: Search, n: int) -> list[str]:
    """Up to n new candidates near the best measured ones, or near the front of several targets."""
    kind = search.pool.inputs
    if kind == "columns":
        raise SettingError("candidates described by columns have no neighbours to list; leave --enumerate out")
    if n < 1:
        raise SettingError(f"--enumerate is {n}; expected 1 or more candidates")
    rows, means, _ = search.values(0)
    if not rows:
        raise SettingError("nothing is measured yet, so there are no best candidates whose neighbours could be listed")
    best = [rows[int(i)] for i in np.argsort(-search.signs[0] * means, kind="stable")]
    parents = (search.front() if len(search.config.targets) > 1 else best)[:_PARENTS] or best[:_PARENTS]
    texts = [search.pool.candidates[row].text for row in parents]
    pool = [candidate.text for candidate in search.pool.candidates]
    if kind == "smiles":
        return molecule_neighbours(texts, pool, n, search.config.seed)
    return composition_neighbours(texts, pool, n)


def molecule_neighbours(parents: Sequence[str], pool: Sequence[str], n: int, seed: int = 0) -> list[str]:
    """Up to n new molecules near the parents, those of the first parent first.

    Parameters
    ----------
    parents : sequence of str
        SMILES, best first.
    pool : sequence of str
        SMILES of what is known already; none of it is given again, and it sets what is hard to make.
    n, seed : int

    Returns
    -------
    list of str
        Canonical SMILES.

    Examples
    --------
    >>> found = molecule_neighbours(["Cc1ccccc1"], ["Cc1ccccc1", "Clc1ccccc1", "OCc1ccccc1", "Nc1ccccn1"], 5)
    >>> len(found), "Clc1ccccc1" in found
    (5, False)
    """
    rng = np.random.default_rng(seed)
    known = {molecules.canonical(text) for text in pool}
    hard = sa_limit(pool, seed)
    largest = _LARGER * max((molecules.read(text).GetNumHeavyAtoms() for text in parents), default=0)
    sources = [sorted(_edited(molecules.read(text))) for text in parents] + [_recombined(parents)]
    for source in sources:
        rng.shuffle(source)
    found: list[str] = []
    for text in _in_turn(sources):
        if len(found) == n:
            break
        if text not in known and _fit(text, largest, hard):
            known.add(text)
            found.append(text)
    return found


def composition_neighbours(parents: Sequence[str], pool: Sequence[str], n: int) -> list[str]:
    """Up to n new formulas: the parents with one ion replaced, charges balanced, the most probable first.

    Examples
    --------
    >>> found = composition_neighbours(["LiFePO4"], ["LiFePO4", "NaFePO4"], 3)
    >>> len(found), "NaFePO4" in found, all(compositions.read(formula)["O"] == 4 for formula in found)
    (3, False, True)
    """
    known = {compositions.canonical(text) for text in pool}
    ranked: dict[str, tuple[float, str]] = {}
    for parent in parents:
        for probability, formula in _substituted(parent):
            key = compositions.canonical(formula)
            if key not in known and probability > ranked.get(key, (0.0, ""))[0]:
                ranked[key] = (probability, formula)
    return [formula for _, formula in sorted(ranked.values(), reverse=True)[:n]]


def sa_score(text: str) -> float:
    """Synthetic accessibility: 1 easy to make, 10 hard; the scorer is RDKit's, with its own table of fragments.

    Examples
    --------
    >>> sa_score("CCO") < sa_score("C1CC2CC1C1CC3CC2C31")
    True
    """
    return float(need("rdkit.Contrib.SA_Score.sascorer").calculateScore(molecules.read(text)))


def sa_limit(pool: Sequence[str], seed: int = 0) -> float:
    """The score below which 95 % of a pool's molecules lie, of at most 300 of them."""
    rng = np.random.default_rng(seed)
    some = pool if len(pool) <= 300 else [pool[int(i)] for i in sorted(rng.choice(len(pool), 300, replace=False))]
    return float(np.quantile([sa_score(text) for text in some], 0.95))


def charges(amounts: dict[str, float]) -> dict[str, float] | None:
    """Oxidation state of each element in the likeliest guess that balances; None where there is none.

    Examples
    --------
    >>> charges({"Li": 1.0, "Fe": 1.0, "P": 1.0, "O": 4.0})
    {'Li': 1.0, 'Fe': 2.0, 'P': 5.0, 'O': -2.0}
    >>> charges({"Nb": 3.0, "Al": 1.0}) is None
    True
    """
    composition = need("pymatgen.core").Composition
    try:
        whole = composition(composition(amounts).get_integer_formula_and_factor()[0])
        if len(whole) > _ELEMENTS or whole.num_atoms > _ATOMS:
            return None
        guesses = whole.oxi_state_guesses(max_sites=-1)
    except (ValueError, OverflowError):
        return None
    if not guesses or any(state == 0 for state in guesses[0].values()):
        return None
    return {symbol: float(guesses[0][symbol]) for symbol in amounts}


def _edited(mol: Any) -> set[str]:
    """What one reaction makes of a molecule."""
    chem, found = need("rdkit.Chem"), set()
    with molecules._quiet():
        for reaction in _reactions():
            for products in reaction.RunReactants((mol,), 200):
                product = products[0]
                if chem.SanitizeMol(product, catchErrors=True) == chem.SanitizeFlags.SANITIZE_NONE:
                    found.add(str(chem.MolToSmiles(product)))
    return found


def _recombined(parents: Sequence[str]) -> list[str]:
    """Molecules put together of the parents' BRICS fragments."""
    chem, brics = need("rdkit.Chem"), need("rdkit.Chem.BRICS")
    pieces: dict[str, None] = {}
    for text in parents:
        pieces |= dict.fromkeys(sorted(brics.BRICSDecompose(molecules.read(text))))
    fragments = [chem.MolFromSmiles(piece) for piece in islice(pieces, _FRAGMENTS)]
    if len(fragments) < 2:
        return []
    found = []
    with molecules._quiet():
        for mol in islice(brics.BRICSBuild(fragments, scrambleReagents=False, maxDepth=1), 200):
            if chem.SanitizeMol(mol, catchErrors=True) == chem.SanitizeFlags.SANITIZE_NONE:
                found.append(str(chem.MolToSmiles(mol)))
    return sorted(set(found))


def _fit(text: str, largest: float, hard: float) -> bool:
    try:
        mol = molecules.read(text)
    except ValueError:  # a reaction's product that is no molecule
        return False
    if mol.GetNumHeavyAtoms() > largest or any(mol.HasSubstructMatch(pattern) for pattern in _unstable()):
        return False
    return sa_score(text) <= hard


def _substituted(parent: str) -> list[tuple[float, str]]:
    """Formulas with one ion replaced by one of the same charge, and the probability of the exchange."""
    species = need("pymatgen.core").Species
    amounts = compositions.read(parent)
    states = charges(amounts)
    if states is None:
        return []
    found = []
    for symbol, state in states.items():
        ion = species(symbol, state)
        if ion not in _model().species:
            continue
        others = [other for other in _model().species if other.oxi_state == state and other.symbol not in amounts]
        ranked = sorted(((_model().cond_prob(other, ion), other.symbol) for other in others), reverse=True)
        for probability, other in ranked[:_IONS]:
            changed = {other if element == symbol else element: amount for element, amount in amounts.items()}
            found.append((float(probability), "".join(f"{e}{n:g}" if n != 1 else e for e, n in changed.items())))
    return found


def _in_turn(sources: Sequence[Sequence[str]]) -> list[str]:
    """One of each source after another."""
    longest = max((len(source) for source in sources), default=0)
    return [source[i] for i in range(longest) for source in sources if i < len(source)]


@cache
def _reactions() -> tuple[Any, ...]:
    make = need("rdkit.Chem.AllChem").ReactionFromSmarts
    return tuple(make(text) for text in _REACTIONS)


@cache
def _unstable() -> tuple[Any, ...]:
    return tuple(need("rdkit.Chem").MolFromSmarts(text) for text in _UNSTABLE)


@cache
def _model() -> Any:
    return need("pymatgen.analysis.structure_prediction.substitution_probability").SubstitutionProbability()
