"""A small reviewed run, and a PostgreSQL to share it by."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from everlearn.data import load
from everlearn.runs import Config, Run, learn
from everlearn.runs.guard import held_out, split
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import Review, Reviews


@pytest.fixture(scope="session")
def learned_run(tmp_path_factory):
    """Three digits, learned in a second or two."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reviewed")
    digits = load_digits()
    keep = np.flatnonzero(digits.target < 3)[:150]
    for i in keep:
        file = folder / "data" / str(digits.target[i]) / f"{i:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(digits.images[i] * (255 / 16)).astype(np.uint8)).save(file)
    config = Config.of({
        "data": {"source": str(folder / "data"), "size": 8, "channels": 1, "holdout": 0.3},
        "learner": {"method": "er", "memory": 40, "precision": "float32"},
        "stream": {"tasks": 3},
    })  # fmt: skip
    with Run.create(folder / "run", config) as run:
        learn(run)
    return folder / "run"


@pytest.fixture
def run_path(learned_run, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(learned_run, tmp_path / "run")


@pytest.fixture(scope="session")
def pictures(learned_run):
    """Held-out pictures of the worklist, and the names of their classes."""
    with Run.open(learned_run) as run:
        source, _, indices = held_out(run)
        inputs, labels, _ = load(source, split(indices, run.config.seed)[1])
    return inputs, [source.class_names[label] for label in labels.tolist()]


@pytest.fixture
def opened(run_path):
    """``opened()`` opens the run for reviewing: run, reviews, and the one who learns."""
    open_now = []

    def begin(**settings):
        run = Run.open(run_path, write=True)
        reviews = Reviews(run.journal.db)
        desk = SimpleNamespace(run=run, reviews=reviews, reviewing=None)
        open_now.append(desk)
        desk.reviewing = Reviewing(run, reviews, **settings)
        desk.close = lambda: (run.close(), open_now.remove(desk))
        return desk

    yield begin
    for desk in open_now:
        desk.run.close()


@pytest.fixture
def verdicts(pictures):
    """Twelve verdicts: corrections to one wrong class after another, confirmations between them."""
    inputs, names = pictures
    found = []
    for i in range(12):
        label = names[i] if i % 2 else ["0", "1", "2", "new"][i % 4]
        found.append(Review(f"s{i}", "accept" if i % 2 else "correct", label, inputs[i].numpy(), key=f"key-number-{i}"))
    return found


@pytest.fixture
def mislead(pictures):
    """``mislead(desk)``: taught well, then nonsense, clearly worse on any machine; gives the version in service."""
    inputs, names = pictures
    wrong = {"0": "1", "1": "2", "2": "0"}

    def teach(desk, labels, times):
        for i, label in [*enumerate(labels)] * times:
            desk.reviews.add(Review(f"s{i}", "correct", label, inputs[i].numpy()))
        while desk.reviewing.work():
            pass

    def mislead(desk):
        teach(desk, names, 2)
        good = desk.reviews.in_service()["number"]
        teach(desk, [wrong[name] for name in names], 3)
        return good

    return mislead


PASSWORD = "a word that must not be kept"


def _program(name):
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(newest[-1]) if newest else shutil.which(name)


def _user():
    """PostgreSQL refuses to run as root; whom to run it as, or None for whoever we are."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL of the tests' own, its port and the word of its user ``everlearn``; skips where none can be had."""
    initdb, server = _program("initdb"), _program("postgres")
    if not (initdb and server):
        pytest.skip("PostgreSQL is not installed (tests/system-packages)")
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="everlearn-postgres-"))
    (folder / "password").write_text(PASSWORD)
    who = {}
    if user is not None:
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    make = [
        initdb,
        "-D",
        data,
        "-U",
        "everlearn",
        "-A",
        "scram-sha-256",
        f"--pwfile={folder / 'password'}",
        "-E",
        "UTF8",
    ]
    made = subprocess.run([*make, "--locale=C"], cwd=folder, capture_output=True, text=True, **who)
    if made.returncode:
        shutil.rmtree(folder)
        pytest.skip(f"PostgreSQL cannot make a cluster here: {made.stderr.strip().splitlines()[-1]}")
    run = [server, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(run, cwd=folder, stdout=log, stderr=log, **who)
    try:
        _wait(port, process, folder / "log")
        yield SimpleNamespace(port=port, word=PASSWORD)
    finally:
        process.send_signal(2)  # SIGINT: fast shutdown
        process.wait(timeout=60)
        shutil.rmtree(folder)


def _wait(port, process, log):
    import psycopg

    for _ in range(600):
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="everlearn", password=PASSWORD, dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    raise AssertionError("PostgreSQL does not answer")


@pytest.fixture
def url(postgres, monkeypatch):
    """A schema of its own, with user and password in the URL."""
    for name in ("PGUSER", "PGWORD"):
        monkeypatch.setenv(name, "")  # `share` sets them; gone after the test
    return f"postgresql://everlearn:{quote(postgres.word)}@127.0.0.1:{postgres.port}/postgres?schema=r{uuid.uuid4().hex[:8]}"
