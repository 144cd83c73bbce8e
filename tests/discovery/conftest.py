"""A small pool of each kind, and a campaign on it."""

import pytest

from everlearn.discovery import Campaign, CampaignConfig

ALCOHOLS = ["CO", "CCO", "CCCO", "CCCCO", "CCCCCO", "CC(C)O", "CC(C)CO", "OCCO", "OCCCO", "CC(O)CO"]
AMINES = ["CN", "CCN", "CCCN", "CCCCN", "CC(C)N", "NCCN", "NCCCN", "CNC", "CCNCC", "CN(C)C"]
AROMATICS = ["c1ccccc1", "Cc1ccccc1", "Oc1ccccc1", "Nc1ccccc1", "OCc1ccccc1", "NCc1ccccc1", "Cc1ccccc1O", "COc1ccccc1"]
SMILES = ALCOHOLS + AMINES + AROMATICS


def oxygens(smiles: str) -> float:
    """A property that a surrogate can learn: the share of oxygen, and a little of the size."""
    return smiles.count("O") / len(smiles) + 0.001 * len(smiles)


@pytest.fixture
def molecules(tmp_path):
    """A pool of 28 molecules, every second one measured."""
    pytest.importorskip("rdkit", reason="the extra discover is not installed")
    rows = [f"{smiles},{oxygens(smiles):.4f}" if i % 2 else f"{smiles}," for i, smiles in enumerate(SMILES)]
    file = tmp_path / "molecules.csv"
    file.write_text("\n".join(["smiles,y", *rows]))
    return file


@pytest.fixture
def columns(tmp_path):
    """A pool of 60 recipes; y is largest at T = 6, salt = b."""
    rows = []
    for i in range(60):
        t, salt = i % 12, "abc"[i // 20]
        y = -((t - 6) ** 2) + (5 if salt == "b" else 0)
        rows.append(f"{t},{salt},{y if i % 4 == 0 else ''}")
    rows = list(dict.fromkeys(rows))
    file = tmp_path / "columns.csv"
    file.write_text("\n".join(["T,salt,y", *rows]))
    return file


@pytest.fixture
def begin(tmp_path):
    """A function that begins a campaign on a pool; all are closed at the end."""
    opened = []

    def start(pool, run="run", **settings):
        config = CampaignConfig.of({"targets": [{"name": "y"}], "batch": 3} | settings)
        opened.append(Campaign.create(tmp_path / run, pool, config))
        return opened[-1]

    yield start
    for campaign in opened:
        campaign.close()
