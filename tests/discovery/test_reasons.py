"""Reasons: parts, measured candidates, and the check of both."""

import csv

import numpy as np
import pytest

from everlearn.discovery import molecules as mol
from everlearn.discovery import report_campaign, write_proposals
from everlearn.discovery.masks import CompositionMasker, MoleculeMasker, masker_of
from everlearn.discovery.page import pool_map, progress
from everlearn.discovery.pool import Candidate


@pytest.fixture
def campaign(begin, molecules):
    return begin(molecules)


def test_a_molecule_rests_on_what_its_property_is_made_of(campaign):
    proposals = campaign.ask(4)
    reasons = campaign.explain(proposals)
    assert len(reasons) == 4
    for each, reason in zip(proposals, reasons):
        assert len(reason.weights) == mol.read(each.text).GetNumAtoms() and max(map(abs, reason.weights)) <= 1
        assert reason.effects == sorted(reason.effects, key=lambda e: e.random - e.effect)
        assert all(e.random > 0 for e in reason.effects)
        assert reason.cases_for and all(case.shapley > 0 for case in reason.cases_for)
        assert all(case.shapley < 0 for case in reason.cases_against)
        for check in (reason.parts_check, reason.cases_check):
            assert check is None or (len(check.random) >= 2 and check.verdict in ("supported", "weak", "not supported"))
        assert f"Expected y {each.outlook['y'].value:.4g}" in reason.words
    assert campaign.explain(proposals) == reasons  # deterministic


def test_words_claim_a_part_only_where_it_is_supported(campaign):
    for reason in campaign.explain(campaign.ask(8)):
        supported = reason.parts_check is not None and reason.parts_check.verdict == "supported"
        assert ("it rests on" in reason.words) == (supported and reason.effects[0].effect > 0)


def test_masked_atoms_match_no_environment_of_the_pool(campaign):
    featuriser = campaign.search.featuriser
    whole = featuriser.of_mols([mol.read("CCO")]).blocks[0].values
    masked = featuriser.of_mols([mol.masked(mol.read("CCO"), [0, 1, 2])]).blocks[0].values
    assert whole.sum() > 0 and masked.sum() == 0


@pytest.mark.parametrize(
    "smiles", ["c1ccc2[nH]ccc2c1", "C[N+](=O)[O-]", "[Na+].[Cl-]", "C[C@H](N)C(=O)O", "c1ccsc1-c1ccncc1"]
)
def test_any_molecule_can_be_masked_and_drawn(campaign, smiles):
    masker = MoleculeMasker(campaign.search.featuriser)
    candidate = Candidate(smiles, smiles, {})
    parts = masker.parts(candidate)
    atoms = sorted({i for part in parts for i in part.mask})
    assert atoms == list(range(mol.read(smiles).GetNumAtoms())) or not parts
    rng = np.random.default_rng(0)
    for part in parts:
        for other in masker.random(candidate, part.mask, 4, rng):
            assert len(other) == len(part.mask) and other != part.mask
    features = masker.features(candidate, [part.mask for part in parts] + masker.environments(candidate))
    assert all(np.isfinite(block.values).all() for block in features.blocks)
    svg = mol.draw(smiles, [1.0, -1.0] + [0.0] * (mol.read(smiles).GetNumAtoms() - 2))
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")


def test_elements_are_taken_out_in_equal_amounts(begin, tmp_path):
    pytest.importorskip("matminer")
    pool = tmp_path / "formulas.csv"
    metals = ["Li", "Na", "K", "Mg", "Ca", "Fe", "Co", "Ni", "Zn", "Al"]
    rows = [f"{m}{n}O{n + 1},{n + i / 10 if (i + n) % 2 else ''}" for i, m in enumerate(metals) for n in (1, 2)]
    pool.write_text("\n".join(["formula,y", *rows]))
    campaign = begin(pool)
    masker = masker_of(campaign.search.featuriser, campaign.pool.candidates, 0)
    assert isinstance(masker, CompositionMasker)
    candidate = Candidate("x", "LiFePO4", {})
    assert [part.name for part in masker.parts(candidate)] == ["Li", "Fe", "P", "O"]
    amounts = {"Li": 1.0, "Fe": 1.0, "P": 1.0, "O": 4.0}
    for other in masker.random(candidate, ("P",), 5, np.random.default_rng(0)):
        assert sum(amounts[symbol] * share for symbol, share in other) == pytest.approx(1.0)
    assert len(campaign.explain(campaign.ask(2))[0].effects) == 2


def test_columns_are_named_with_their_values(begin, columns):
    campaign = begin(columns, inputs="columns")
    reason = campaign.explain(campaign.ask(1))[0]
    assert {effect.part.name.split(" = ")[0] for effect in reason.effects} == {"T", "salt"}


def test_the_report_and_the_table(campaign):
    proposals = campaign.ask(2)
    reasons = campaign.explain(proposals)
    page = report_campaign(campaign, proposals, reasons).read_text()
    assert page.count("<article") == 2 and page.count("<svg") >= 4
    assert "src=" not in page and "<script" not in page  # one file that needs nothing else
    with write_proposals(campaign, proposals, reasons).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["candidate"] for row in rows] == [each.candidate for each in proposals]
    assert (
        campaign.tell_file(campaign.path / "proposals.csv").learned == 0
    )  # not filled in yet: kept aside, nothing learned


def test_a_target_may_be_called_anything(begin, tmp_path):
    pool, name = tmp_path / "pool.csv", "cost_$ in US_$"
    pool.write_text("\n".join([f"a,{name}", *(f"{i},{i if i < 6 else ''}" for i in range(12))]))
    campaign = begin(pool, targets=[{"name": name}], inputs="columns")
    proposals = campaign.ask(2)
    report_campaign(campaign, proposals, campaign.explain(proposals))
    assert pool_map(campaign.search, []) and progress(campaign)


def test_what_a_pool_says_is_shown_as_text(begin, tmp_path):
    pool = tmp_path / "pool.csv"
    rows = [f"<script>{t}</script>,{t},{t if t % 2 else ''}" for t in range(12)]
    pool.write_text("\n".join(["id,T,y", *rows]))
    campaign = begin(pool)
    proposals = campaign.ask(2)
    assert "<script" not in report_campaign(campaign, proposals, campaign.explain(proposals)).read_text()
