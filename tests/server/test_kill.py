"""SIGKILL of the server while clients send reviews: every acknowledged review is learned exactly once."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

import pytest

pytest.importorskip("fastapi", reason="serving is an extra")

from everlearn.errors import RunError
from everlearn.runs import Run
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import Reviews
from everlearn.server.sharing import share


def start(path, port):
    """A server in a group of its own, answering."""
    server = subprocess.Popen(
        [sys.executable, "-m", "everlearn.cli", "serve", str(path), "--port", str(port), "--margin", "1"],
        start_new_session=True,
    )
    for _ in range(12_000):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/health", timeout=5)
            return server
        except OSError:
            assert server.poll() is None, "the server did not start"
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def send(port, acknowledged, stop, cases, seed, pause):
    """Send reviews until told to stop; one that got no answer is sent again with the same key."""
    rng = random.Random(seed)
    while not stop.wait(rng.uniform(0, 2 * pause)):
        given = {
            "case_id": rng.choice(cases),
            "verdict": rng.choice(["accept", "accept", "accept", "correct"]),
            "key": uuid.uuid4().hex,
        }
        if given["verdict"] == "correct":
            given["label"] = str(rng.randrange(4))
        body = json.dumps(given).encode()
        while not stop.is_set():
            try:
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/api/v1/reviews", body, {"content-type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=30) as answer:
                    acknowledged[given["key"]] = json.load(answer)["number"]
                break
            except urllib.error.HTTPError:
                raise
            except (OSError, ValueError):
                time.sleep(0.05)


def open_when_free(path):
    """The run, once the writer of the server that was killed has let go of it."""
    for _ in range(600):
        try:
            return Run.open(path, write=True)
        except RunError as error:
            assert "in use" in str(error)
            time.sleep(0.2)
    raise AssertionError("the writer of a killed server goes on")


def kill_and_check(path, kills, clients, seed=0, pause=0.5):
    """The experiment; returns how many reviews were acknowledged. Clients rest ``pause`` seconds between two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rng, acknowledged, stop = random.Random(seed), {}, threading.Event()
    server = start(path, port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/worklist?order=arrival") as answer:
        cases = [case["id"] for case in json.load(answer)["cases"]]
    threads = [
        threading.Thread(target=send, args=(port, acknowledged, stop, cases, seed + i, pause)) for i in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        for number in range(kills):
            time.sleep(rng.uniform(0.5, 3))
            print(f"kill {number + 1} of {kills}: {len(acknowledged)} verdicts acknowledged", flush=True)
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            server = start(path, port)
        time.sleep(1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    with open_when_free(path) as run:
        reviews = Reviews(run.journal.db)
        before = {row["number"] for row in reviews.rows("SELECT number FROM reviews WHERE status = 'learn'")}
        reviewing = Reviewing(run, reviews, margin=1.0)
        while reviewing.work():
            pass
        learned = [row["review"] for row in reviews.learned()]
        kept = {row["key"]: row["number"] for row in reviews.rows("SELECT key, number FROM reviews")}
        assert all(kept.get(key) == number for key, number in acknowledged.items()), "an acknowledged review is lost"
        assert sorted(learned) == sorted(before) and len(learned) == len(set(learned)), "not each exactly once"
        stream = reviews.rows("SELECT samples FROM steps WHERE task IS NOT NULL")
        assert reviewing.learner.samples_seen == sum(row["samples"] for row in stream) + len(learned)
        assert reviews.verify_audit().fault is None
    return len(acknowledged)


def test_one_kill_loses_nothing(run_path):
    assert kill_and_check(run_path, kills=1, clients=2, pause=0.2) > 0


@pytest.mark.slow
def test_every_acknowledged_review_is_learned_exactly_once(run_path):
    assert kill_and_check(run_path, kills=3, clients=4) > 0


@pytest.mark.slow
def test_the_same_where_the_journal_is_in_postgres(run_path, tmp_path, url):
    share(run_path, url, f"file://{tmp_path}/store")
    assert kill_and_check(run_path, kills=3, clients=4) > 0
