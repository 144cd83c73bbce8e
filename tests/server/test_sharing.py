"""A run shared between machines: journal in a real PostgreSQL, versions in a store; one learns, many predict."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("fastapi", reason="serving is an extra")
pytest.importorskip("psycopg", reason="PostgreSQL is an extra")

import psycopg

from everlearn.cli.forget import audit_log, forget, rollback
from everlearn.errors import DataError, RunError, SettingError
from everlearn.runs import Config, Run
from everlearn.runs.database import SQLite, open_database
from everlearn.runs.postgres import without_secrets
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import Review, Reviews
from everlearn.server import sharing
from everlearn.server.security import Tokens
from everlearn.server.sharing import share


def work(path, margin=1.0):
    """Learn what waits; the state, and which reviews it has learned."""
    with Run.open(path, write=True) as run:
        reviewing = Reviewing(run, Reviews(run.journal.db), margin=margin, publish_after=0.0)
        while reviewing.work():
            pass
        state = {name: tensor.clone() for name, tensor in reviewing.learner.state_dict().items()}
        return state, [row["review"] for row in reviewing.reviews.learned()]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def add(path, verdicts):
    with Run.open(path) as run:
        return [Reviews(run.journal.db).add(verdict)["number"] for verdict in verdicts]


def test_the_same_bits_as_in_sqlite_and_nothing_of_it_stays_behind(run_path, tmp_path, verdicts, url, postgres, capsys):
    alone = shutil.copytree(run_path, tmp_path / "alone")
    for path in (run_path, alone):
        add(path, verdicts[:3])
        work(path)
    share(run_path, url, f"file://{tmp_path}/store")
    for path in (run_path, alone):
        add(path, verdicts[3:8])
    (state, learned), (wanted, order) = work(run_path), work(alone)
    assert same(state, wanted) and learned == order == [1, 2, 3, 4, 5, 6, 7, 8]

    for path in (run_path, alone):  # back to the second version, then a review is forgotten
        rollback(path, 2, json=True)
        add(path, verdicts[8:9])
        forget(path, sample=str((1 << 40) + 9), json=True)
        add(path, verdicts[10:11])
    (state, learned), (wanted, order) = work(run_path), work(alone)
    assert same(state, wanted) and learned == order and 9 not in learned and 10 in learned
    audit_log("verify", run_path, json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["fault"] is None

    for name in ("journal.sqlite", "predictions.sqlite"):
        assert not (run_path / name).exists()
    for file in (path for path in run_path.rglob("*") if path.is_file()):
        assert postgres.word.encode() not in file.read_bytes() and b"PGUSER" not in file.read_bytes()
    assert "everlearn" not in Config.load(run_path / "config.toml").database.partition("@")[0]


def test_rows_are_the_same_after_moving_and_numbers_go_on(run_path, verdicts, url):
    add(run_path, verdicts[:2])
    with Run.open(run_path) as run:
        before = {t: run.journal.db.rows(f"SELECT * FROM {t}") for t in ("steps", "samples", "reviews", "audit")}
        before = {t: [tuple(row[name] for name in row.keys()) for row in rows] for t, rows in before.items()}  # noqa: SIM118
    share(run_path, url, None)
    share(run_path, url, None)  # asked again, nothing happens
    with Run.open(run_path) as run:
        for table, rows in before.items():
            assert sorted(map(repr, rows)) == sorted(
                repr(tuple(row.values())) for row in run.journal.db.rows(f"SELECT * FROM {table}")
            )
        assert Reviews(run.journal.db).verify_audit().fault is None
    assert add(run_path, verdicts[2:3]) == [3]


@pytest.mark.parametrize("place", ["the old journal loses its tables", "the configuration is written"])
def test_a_move_that_was_interrupted_goes_on(run_path, verdicts, url, monkeypatch, place):
    add(run_path, verdicts[:2])
    target, name = (SQLite, "execute") if place.startswith("the old") else (sharing, "write_config")
    real = getattr(target, name)

    def crash(*values):
        if name == "write_config" or "DROP TABLE" in values[1]:
            raise KeyboardInterrupt
        return real(*values)

    monkeypatch.setattr(target, name, crash)
    with pytest.raises(KeyboardInterrupt):
        share(run_path, url, None)
    monkeypatch.setattr(target, name, real)
    if place.startswith("the old"):  # a server that had it open could go on acknowledging: nothing of that is lost
        assert add(run_path, verdicts[2:3]) == [3]
    share(run_path, url, None)
    with Run.open(run_path) as run:
        reviews = Reviews(run.journal.db)
        assert len(reviews.recent()) == (3 if place.startswith("the old") else 2)
        assert reviews.verify_audit().fault is None


def test_a_server_that_still_has_the_old_journal_open_acknowledges_nothing(run_path, verdicts, url):
    old = Reviews(open_database(run_path / "journal.sqlite"))
    old.add(verdicts[0])
    share(run_path, url, None)
    with pytest.raises(RunError, match="nothing was changed"):
        old.add(verdicts[1])


def test_one_learns_wherever_it_is_and_another_takes_over(run_path, tmp_path, verdicts, url):
    share(run_path, url, f"file://{tmp_path}/store")
    elsewhere = tmp_path / "elsewhere"
    share(elsewhere, url, None)  # joins with an empty directory: configuration, secret, store
    assert (elsewhere / "secret").read_bytes() == (run_path / "secret").read_bytes()
    with Run.open(run_path, write=True) as run:
        Reviewing(run, Reviews(run.journal.db))
        with pytest.raises(RunError, match="in use by another process"):
            Run.open(elsewhere, write=True)
    add(elsewhere, verdicts[:4])
    state, learned = work(run_path)
    add(elsewhere, verdicts[4:6])
    further, order = work(elsewhere)  # from the newest version in the store
    assert order == [*learned, 5, 6] and further["memory.ids"].shape == state["memory.ids"].shape
    forget(elsewhere, sample=str((1 << 40) + 2), json=True)
    forgot, _ = work(elsewhere)
    shutil.rmtree(elsewhere)
    back, _ = work(run_path)  # the first machine again: it takes up what the other did, and keeps nothing of review 2
    assert same(back, forgot) and not same(back, further)
    for file in run_path.rglob("state.safetensors"):
        assert (1 << 40) + 2 not in load_file(file)["memory.ids"]


def test_who_loses_the_connection_can_write_no_more_and_others_come_back(run_path, verdicts, url):
    share(run_path, url, None)
    with Run.open(run_path) as reader:
        reader.journal.db.rows("SELECT 1 AS one")
        run = Run.open(run_path, write=True)
        with psycopg.connect(without_secrets(url).partition("?")[0], autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'everlearn'")
        for _ in range(2):
            with pytest.raises(RunError, match="cannot use the journal"):
                Reviews(run.journal.db).add(verdicts[0])
        with pytest.raises(RunError, match="cannot use the journal"):
            reader.journal.db.rows("SELECT 1 AS one")
        assert reader.journal.db.value("SELECT COUNT(*) FROM reviews") == 0
        Reviews(reader.journal.db).add(verdicts[1])
        run.close()


def test_verdicts_at_once_get_numbers_in_the_order_in_which_they_are_seen(run_path, verdicts, url):
    share(run_path, url, None)
    code = (
        "import sys, numpy as np\nfrom everlearn.runs.database import open_database\n"
        "from everlearn.runs.reviews import Review, Reviews\nreviews = Reviews(open_database(sys.argv[1]))\n"
        "for i in range(30): reviews.add(Review('s1', 'correct', '1', np.zeros((1, 8, 8), np.uint8)))"
    )
    place = Config.load(run_path / "config.toml").database
    writers = [subprocess.Popen([sys.executable, "-c", code, place]) for _ in range(3)]
    db, seen = open_database(place), []
    while len(seen) < 90:  # as the writer asks: what is behind the last one it knows
        new = db.rows("SELECT number FROM reviews WHERE number > ? ORDER BY number", seen[-1] if seen else 0)
        seen += [row["number"] for row in new]
        assert new or any(writer.poll() is None for writer in writers) or len(seen) == 90
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert seen == [row["number"] for row in db.rows("SELECT number FROM reviews ORDER BY number")]
    assert Reviews(db).verify_audit().fault is None
    db.close()


@pytest.mark.parametrize(
    "database, store, line",
    [
        ("mysql://host/db", None, "expected postgresql://HOST/NAME"),
        ("postgresql://127.0.0.1:1/nothing", None, "cannot use the journal postgresql://127.0.0.1:1/nothing"),
        ("postgresql://host/db?sslkey=k", None, "has sslkey; expected only"),
        ("postgresql://host/db?schema=Bad Name", None, "expected small letters"),
        (None, "store", "expected s3://BUCKET/FOLDER"),
        (None, "s3://key:word@bucket/x", "names a user"),
        (None, "nosuch://bucket/x", "expected one that fsspec knows"),
    ],
)
def test_what_cannot_be_shared_is_refused_and_the_run_stays_as_it_was(run_path, database, store, line):
    before = (run_path / "config.toml").read_bytes()
    with pytest.raises((RunError, SettingError), match=line) as told:
        share(run_path, database, store)
    assert "word" not in str(told.value) and "\n" not in str(told.value)
    assert (run_path / "config.toml").read_bytes() == before and (run_path / "journal.sqlite").exists()


def test_a_database_belongs_to_one_run(run_path, learned_run, tmp_path, url):
    with pytest.raises(RunError, match="holds no run yet"):
        share(tmp_path / "nothing", url, None)
    share(run_path, url, None)
    other = shutil.copytree(learned_run, tmp_path / "other")
    with pytest.raises(RunError, match=r"holds the journal of another run; .*\?schema=NAME"):
        share(other, url, None)
    with pytest.raises(SettingError, match=r"is in postgresql://.*, not in"):
        share(run_path, url + "x", None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(RunError, match="neither a run nor empty"):
        share(tmp_path / "full", url, None)
    with Run.open(run_path) as run:
        with pytest.raises(DataError, match="NUL"):
            Reviews(run.journal.db).add(Review("s1", "unsure", None, np.zeros((1, 8, 8), np.uint8), note="a\0b"))
        token = Tokens(run.journal.db).create("Dr Kim", "reviewer")
        assert Tokens(run.journal.db).actor(token).name == "Dr Kim"


class Server:
    """``everlearn serve`` in a process and group of its own."""

    def __init__(self, path, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "everlearn.cli", "serve", path, "--port", self.port, "--margin", 1, *options]
        self.process = subprocess.Popen(list(map(str, command)), start_new_session=True)
        for _ in range(3000):
            try:
                self.ask("/health")
                return
            except OSError:
                assert self.process.poll() is None, "the server did not start"
                time.sleep(0.1)
        raise AssertionError("the server does not answer")

    def ask(self, path, sent=None, kind="application/json"):
        body = sent if sent is None or isinstance(sent, bytes) else json.dumps(sent).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/v1{path}", body, {"content-type": kind})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def wait(self, path, ready):
        for _ in range(1200):
            if ready(found := self.ask(path)):
                return found
            time.sleep(0.1)
        raise AssertionError(found)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def test_two_servers_one_learns_both_predict_and_the_other_takes_over(run_path, tmp_path, pictures, url):
    file = io.BytesIO()
    Image.fromarray(pictures[0][0][0].numpy()).save(file, "PNG")
    head = b'--B\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    form = head + file.getvalue() + b"\r\n--B--\r\n"
    servers = []
    try:
        writer = Server(run_path, "--database", url, "--store", f"file://{tmp_path}/store")
        servers.append(writer)
        replica = Server(tmp_path / "elsewhere", "--replica", "--database", url)
        servers.append(replica)
        case = replica.ask("/cases", form, "multipart/form-data; boundary=B")["id"]
        given = {"case_id": case, "verdict": "correct", "label": "a cat", "key": "12345678"}
        number = replica.ask("/reviews", given)["number"]
        assert writer.ask("/reviews", given)["number"] == number  # sent again to the other, it counts once
        for server in servers:
            server.wait(f"/reviews/{number}", lambda row: row["in_service"])
            assert server.ask(f"/cases/{case}")["score"]["label"] == "a cat"
        writer.kill()
        later = replica.ask("/reviews", given | {"key": "23456789", "label": "a dog"})["number"]
        assert replica.ask("/health")["queue"] == 1  # acknowledged while nobody learns
        replica.kill()
        taken = Server(tmp_path / "elsewhere", "--database", url)  # the machine that had joined learns from now on
        servers.append(taken)
        taken.wait(f"/reviews/{later}", lambda row: row["in_service"])
        assert taken.ask(f"/cases/{case}")["score"]["label"] == "a dog"
        assert taken.ask("/audit/verify")["fault"] is None
        assert [row["number"] for row in taken.ask("/reviews") if row["learned"]] == [later, number]
        kept = sorted(path.name for path in (tmp_path / "store" / "versions").iterdir())
        assert kept and len(list((tmp_path / "elsewhere" / "fetched").iterdir())) <= 1
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.kill()
