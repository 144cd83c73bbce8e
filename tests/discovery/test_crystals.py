"""Crystals: read from files, relaxed by CHGNet, and kept aside where they would fall apart."""

import csv
import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from everlearn.cli.main import app
from everlearn.discovery import Campaign, CampaignConfig, structures
from everlearn.discovery.stability import Relaxed, element, relax, stability_of
from everlearn.errors import SettingError

core = pytest.importorskip("pymatgen.core", reason="the extra discover is not installed")

SALTS = {"NaCl": 5.64, "LiF": 4.03, "KCl": 6.29, "KF": 5.35, "LiCl": 5.13, "NaK": 7.0}


def rock_salt(formula, a):
    first, second = core.Composition(formula).elements
    whole = core.Structure.from_spacegroup("Fm-3m", core.Lattice.cubic(a), [first, second], [[0, 0, 0], [0.5] * 3])
    return whole.get_primitive_structure()


@pytest.fixture
def pool(written, tmp_path):
    """A copy of `written` that may be changed."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path / "pool.csv"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Salts as CIF, POSCAR and JSON, an alloy that falls apart, and three rows that are no structures."""
    folder, rows = tmp_path_factory.mktemp("salts"), []
    for i, (formula, a) in enumerate(SALTS.items()):
        structure = rock_salt(formula, a)
        name = f"{formula}.cif" if i % 2 else f"{formula}.vasp"
        if formula == "KF":
            name = json.dumps(structure.as_dict())
        else:
            structure.to(filename=str(folder / name), fmt="cif" if i % 2 else "poscar")
        rows.append([name, {"NaCl": 4.0, "LiF": 1.0, "KCl": 5.0}.get(formula, "")])
    (folder / "broken.cif").write_text("data_x\n_cell nothing\n")
    (folder / "near.vasp").write_text("x\n1\n3 0 0\n0 3 0\n0 0 3\nNa Cl\n1 1\ndirect\n0 0 0\n0 0 0.05\n")
    rows += [["broken.cif", ""], ["nowhere.cif", ""], ["near.vasp", ""]]
    with (folder / "pool.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["cif", "y"], *rows])
    return folder


def settings(**more):
    return CampaignConfig.of({"targets": [{"name": "y"}], "structures": "cif", "batch": 2} | more)


def test_rows_that_are_no_structures_are_named_and_files_may_go(pool, tmp_path):
    with Campaign.create(tmp_path / "run", pool, settings()) as campaign:
        assert [each.text for each in campaign.pool.candidates] == ["NaCl", "LiF", "KCl", "KF", "LiCl", "KNa"]
        asides = [str(each) for each in campaign.pool.aside]
    assert asides[0].startswith("row 8: broken.cif: cannot read it as a crystal structure: ")
    assert asides[1] == "row 9: nowhere.cif: cannot read it as a crystal structure: there is no such file"
    assert asides[2] == "row 10: near.vasp has atoms nearer than 0.5 Å to each other"
    for file in tmp_path.glob("*.[cv]*"):
        file.unlink()
    with Campaign.open(tmp_path / "run") as campaign:
        assert [str(each) for each in campaign.pool.aside] == asides and len(campaign.pool.candidates) == 6


def test_a_prototype_takes_one_other_element():
    salt = structures.dump(rock_salt("NaCl", 5.64))
    assert structures.formula_of(structures.prototype("KCl", [("NaCl", salt)])) == "KCl"
    assert structures.prototype("KF", [("NaCl", salt)]) == structures.prototype("K2Cl", [("NaCl", salt)]) == ""


def test_settings_that_do_not_fit_get_one_line(pool, tmp_path, monkeypatch):
    with pytest.raises(SettingError, match="name their column with structures"):
        CampaignConfig.of({"targets": [{"name": "y"}], "stability": 0.1})
    with pytest.raises(SettingError, match="has no column 'poscar'; it has cif, y"):
        Campaign.create(tmp_path / "run", pool, settings(structures="poscar"))
    monkeypatch.setitem(__import__("sys").modules, "chgnet", None)
    with pytest.raises(SettingError, match=r"needs chgnet.*pip install 'everlearn\[crystals\]'"):
        Campaign.create(tmp_path / "run", pool, settings(stability=0.1))


def test_a_compound_is_compared_with_the_mixture_it_falls_into():
    phases = [Relaxed("Na1", -1.0, 0, True), Relaxed("Cl2", -2.0, 0, True), Relaxed("Na1Cl1", -3.0, 0, True)]
    found = stability_of(Relaxed("Na3Cl1", -1.75, 0, True), phases)  # Na2 and NaCl: (2 · −1 + 2 · −3) / 4
    assert found.above_hull == pytest.approx(0.25) and found.formation == pytest.approx(-1.75 + 1.25)
    assert found.refused(0.1) == "0.250 eV/atom above the hull of 3 phases; expected at most 0.1"
    assert found.refused(0.3) is None
    assert stability_of(Relaxed("Na3Cl1", -1.75, 0, False), phases).refused(9) == "it does not relax within 200 steps"


class TestCHGNet:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("chgnet", reason="the extra crystals is not installed")

    def test_salt_relaxes_to_its_cell(self):
        found = relax(rock_salt("NaCl", 6.2))
        assert found.converged and found.gained > 0.02
        assert found.energy == pytest.approx(-3.66, abs=0.05)  # eV/atom, and 0.1 of the tables' for the elements
        for symbol, energy in {"Na": -1.31, "Cl": -1.84, "O": -4.95}.items():
            assert relax(element(symbol)).energy == pytest.approx(energy, abs=0.2)
        assert element("U") is not None and element("Mn") is not None and element("Pu") is None

    def test_what_falls_apart_is_kept_aside_and_named(self, pool, tmp_path):
        arguments = ["discover", str(pool), "--target", "y", "--structures", "cif", "--stability", "0.02", "--run"]
        ran = CliRunner().invoke(app, [*arguments, str(tmp_path / "run"), "--batch", "3", "--no-reasons", "--json"])
        assert ran.exit_code == 0, ran.output
        result = json.loads(ran.stdout)
        assert "eV/atom above the hull of" in result["unstable"]["KNa"]
        shown = {each["candidate"]: each["stability"] for each in result["proposals"]}
        assert set(shown) == {"KF", "LiCl"} and all(each["above_hull"] < 0 for each in shown.values())
        with Campaign.open(tmp_path / "run") as campaign:
            relaxed = campaign.entries.relaxations()
            assert [each.candidate for each in campaign.ask(3)] == [each["candidate"] for each in result["proposals"]]
            assert campaign.entries.relaxations() == relaxed and np.isfinite(relaxed["KF"]["energy"])
            added = campaign.enumerate(4)
            proposed = {each.candidate for each in campaign.ask(6)}
            judged = campaign.stabilities
            assert added and proposed & set(added) <= set(judged) and set(judged) > set(shown)
