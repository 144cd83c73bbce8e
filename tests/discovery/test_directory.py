"""A campaign whose files were damaged, removed or made read-only says so in a line; those begun before still open."""

import os
import shutil
import sqlite3

import pytest

from everlearn.discovery import Campaign
from everlearn.discovery.entries import Entries
from everlearn.errors import RunError


@pytest.fixture
def run(begin, columns, tmp_path):
    """A closed campaign with one result."""
    campaign = begin(columns, inputs="columns")
    campaign.tell({"row 2": 1.0})
    campaign.close()
    return tmp_path / "run"


def test_a_pool_that_was_cut_or_changed_or_removed(run):
    pool = run / "pool.csv"
    whole = pool.read_text()
    for text in (whole[: len(whole) // 2], whole + "99,a,1\n", ""):
        pool.write_text(text)
        with pytest.raises(RunError, match=r"pool\.csv is not as the campaign was begun with it.*put it back"):
            Campaign.open(run)
    pool.unlink()
    with pytest.raises(RunError, match=r"has lost its pool\.csv; put it back"):
        Campaign.open(run)
    pool.write_text(whole)
    with Campaign.open(run) as campaign:
        assert len(campaign.told) == 1


def test_a_journal_that_was_emptied_removed_or_replaced(run, tmp_path):
    journal = run / "journal.sqlite"
    shutil.copy(journal, tmp_path / "copy")

    def replaced():
        other = Entries(tmp_path / "other.sqlite")
        other.begin("another pool")
        other.close()
        shutil.copy(tmp_path / "other.sqlite", journal)

    for damage in (lambda: journal.write_bytes(b""), journal.unlink, replaced):
        damage()
        for _ in range(2):  # being refused mends nothing
            with pytest.raises(RunError, match=r"journal\.sqlite has lost what this campaign was told.*put it back"):
                Campaign.open(run)
        shutil.copy(tmp_path / "copy", journal)
    with Campaign.open(run) as campaign:
        assert len(campaign.told) == 1


def test_a_campaign_begun_before_pools_were_sealed_opens(run):
    settings = run / "campaign.toml"
    settings.write_text("\n".join(line for line in settings.read_text().splitlines() if not line.startswith("pool")))
    with Campaign.open(run) as campaign:
        assert len(campaign.told) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "UPDATE events SET detail = '{' WHERE kind = 'told'",
            r"entry 2 \(told\) of the campaign's journal is damaged",
        ),
        (
            "UPDATE events SET detail = '{}' WHERE kind = 'told'",
            r"entry 2 \(told\) of the campaign's journal is damaged",
        ),
        ("UPDATE events SET detail = replace(detail, 'row 2', 'row 999')", r"journal.sqlite tells of 'row 999', which"),
    ],
)
def test_entries_that_were_changed_by_hand(run, change, message):
    journal = sqlite3.connect(run / "journal.sqlite")
    journal.execute(change)
    journal.commit()
    journal.close()
    with pytest.raises(RunError, match=message):
        Campaign.open(run)


def test_a_journal_without_its_campaign_is_not_taken_over(run, begin, columns):
    (run / "campaign.toml").unlink()
    with pytest.raises(RunError, match=r"has the journal of a run, but no campaign\.toml; put that back"):
        begin(columns, inputs="columns")


def test_a_read_only_campaign_says_what_to_do(run, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(RunError, match=r"is read-only.*copy it to where you may write"):
        Campaign.open(run)


def test_a_campaign_that_cannot_be_begun_lets_go_of_its_directory(begin, columns, tmp_path, monkeypatch):
    with monkeypatch.context() as broken, pytest.raises(RunError, match="cannot write to the run's directory"):
        broken.setattr(shutil, "copyfile", _full)
        begin(columns, inputs="columns")
    assert len(begin(columns, inputs="columns").ask()) == 3


def _full(*_):
    raise OSError(28, "No space left on device")
