"""Candidates that no table lists: new, buildable, balanced, and remembered by the campaign."""

import json

import pytest
from typer.testing import CliRunner

from everlearn.cli.main import app
from everlearn.discovery import Campaign, report_campaign
from everlearn.discovery import compositions as comp
from everlearn.discovery import molecules as mol
from everlearn.discovery import neighbours as near
from everlearn.errors import SettingError


def test_molecules_are_new_valid_and_no_harder_to_make():
    pytest.importorskip("rdkit")
    pool = ["Cc1ccc(-c2ccncc2)cc1", "Clc1ccc(-c2ccncc2)cc1", "OCCc1ccccc1", "c1ccc2[nH]ccc2c1", "CC(C)Oc1ccccc1"]
    found = near.molecule_neighbours(pool[:2], pool, 40, seed=1)
    assert 20 <= len(found) == len(set(found)) and not set(found) & {mol.canonical(text) for text in pool}
    limit = near.sa_limit(pool)
    assert all(mol.canonical(text) == text and near.sa_score(text) <= limit for text in found)
    assert near.molecule_neighbours(pool[:2], pool, 40, seed=1) == found
    assert near.molecule_neighbours(pool[:2], [*pool, *found], 40, seed=1) != found
    assert max(mol.read(text).GetNumHeavyAtoms() for text in found) <= 1.2 * 13


def test_what_falls_apart_is_not_listed():
    pytest.importorskip("rdkit")
    assert not near._fit("CCOO", 99, 10) and not near._fit("CN(C)Cl", 99, 10) and near._fit("CCOC", 99, 10)
    assert not near._fit("CCOC", 3, 10) and not near._fit("CCOC", 99, 1.0)


def test_substituted_compositions_keep_their_charges_balanced():
    pytest.importorskip("pymatgen")
    pool = ["LiFePO4", "NaFePO4", "Ga0.5In0.5As", "Nb3Al"]
    found = near.composition_neighbours(pool, pool, 30)
    assert len(found) == 30 and not {comp.canonical(text) for text in found} & {comp.canonical(text) for text in pool}
    for text in found:
        amounts = comp.read(text)
        kin = [each for each in map(comp.read, pool) if sorted(each.values()) == sorted(amounts.values())]
        assert any(len(set(each) - set(amounts)) == 1 for each in kin)  # one element replaced
        assert near.charges(amounts) is not None, text
    assert near.composition_neighbours(["Nb3Al"], pool, 30) == []  # no charges that balance


def test_a_campaign_remembers_them_and_learns_their_results(begin, molecules, tmp_path):
    campaign = begin(molecules)
    before = len(campaign.pool.candidates)
    added = campaign.enumerate(25)
    assert len(added) == 25 and len(campaign.pool.candidates) == before + 25
    assert {each.text for each in campaign.pool.candidates[before:]} == set(added) == campaign.enumerated
    proposals = campaign.ask(30)
    new = next(each for each in proposals if each.candidate in campaign.enumerated)
    assert "not in the table" in report_campaign(campaign, [new], campaign.explain([new])).read_text()
    names = [each.candidate for each in proposals]
    campaign.close()
    with Campaign.open(tmp_path / "run") as again:
        assert [each.candidate for each in again.ask(30)] == names
        assert again.tell({new.candidate: 1.0}).learned == 1
        assert new.candidate not in {each.candidate for each in again.ask(30)}
        assert not set(again.enumerate(25)) & set(added)


def test_the_verb_lists_neighbours(molecules, tmp_path):
    options = ["--target", "y", "--run", tmp_path / "r", "--enumerate", 10, "--no-reasons", "--json"]
    said = CliRunner().invoke(app, ["discover", str(molecules), *map(str, options)])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["candidates"] == 28 + 10


def test_bad_use_gets_one_line(begin, columns, molecules, tmp_path):
    with pytest.raises(SettingError, match="have no neighbours to list; leave --enumerate out"):
        begin(columns, inputs="columns").enumerate(5)
    with pytest.raises(SettingError, match="--enumerate is 0; expected 1 or more"):
        begin(molecules, "other").enumerate(0)
    (tmp_path / "new.csv").write_text("smiles,y\nCCO,\nCCN,\n")
    with pytest.raises(SettingError, match="nothing is measured yet"):
        begin(tmp_path / "new.csv", "third").enumerate(5)
