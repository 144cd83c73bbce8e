"""Files that arrive are learned, each exactly once, by a real process that is stopped and killed."""

import io
import os
import random
import signal
import time

import numpy as np
import pytest
from PIL import Image

from everlearn.runs import Config, Run
from everlearn.runs.checkpoints import steps
from everlearn.runs.learn import prepare
from everlearn.runs.session import Session
from everlearn.runs.watch import Patience, Watch

from .test_kill import start

NOISE = np.random.default_rng(0)


def put(folder, name, value: int) -> None:
    """A picture appears at once, as a careful writer does it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = NOISE.integers(value, value + 60, (12, 12, 3), dtype=np.uint8)
    beside = path.with_name(f".{path.name}")
    Image.fromarray(pixels).save(beside, format="PNG")
    beside.rename(path)


def learned(path) -> list[str]:
    """Names of what the journal says is learned, by the last commit."""
    if not (path / "journal.sqlite").exists():
        return []
    with Run.open(path) as run:
        return [row["name"] for row in run.journal.db.rows("SELECT name FROM samples ORDER BY id")]


def wait_for(check, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_process_that_is_killed_and_stopped_learns_each_file_once(tmp_path):
    folder, path, rng = tmp_path / "in", tmp_path / "r", random.Random(0)
    for i in range(6):
        put(folder, f"dark/{i}.png", 0)
        put(folder, f"light/{i}.png", 180)
    words = ["--watch", folder, "--run", path, "--method", "er", "--memory", 10, "--batch", 4, "--checkpoint-every", 2]
    process = start("learn", *words)
    wait_for(lambda: (path / "config.toml").exists())
    for kill in range(3):
        for i in range(4):
            put(folder, f"{('dark', 'light', 'grey')[i % 3]}/later {kill} {i}.png", (0, 180, 90)[i % 3])
        known = len(learned(path))
        wait_for(lambda known=known: len(learned(path)) > known)  # it is at work
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.join(30)
        process = start("learn", "--resume", path)
    total = len(list(folder.glob("*/*.png")))
    wait_for(lambda: len(learned(path)) == total)
    half = io.BytesIO()
    Image.effect_noise((40, 40), 50).save(half, format="PNG")
    (folder / "dark" / "half.png").write_bytes(half.getvalue()[:300])
    (folder / "dark" / "never.png").write_bytes(b"no picture")
    time.sleep(1.5)  # longer than a whole file waits
    with (folder / "dark" / "half.png").open("ab") as file:
        file.write(half.getvalue()[300:])
    wait_for(lambda: len(learned(path)) == total + 1)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    names = learned(path)
    assert sorted(names) == sorted({str(f.relative_to(folder)) for f in folder.glob("*/*.png")} - {"dark/never.png"})
    with Run.open(path) as run:
        assert run.progress.samples_seen == len(names) == len(set(names))
        assert run.progress.step == steps(path / "checkpoints")[-1] == run.journal.steps()[-1]["step"]
        assert set(run.journal.class_names().values()) == {"dark", "light", "grey"}


@pytest.fixture
def session(tmp_path):
    """A run that watches ``in``, not begun."""
    (tmp_path / "in").mkdir()
    config = Config.of({
        "data": {"source": str(tmp_path / "in"), "watch": True, "size": 12, "channels": 3},
        "stream": {"batch": 4}, "learner": {"method": "er", "memory": 10},
    })  # fmt: skip
    prepared = prepare(config)
    with Run.create(tmp_path / "r", config) as run:
        yield Session(run, prepared.learner, prepared.streams, prepared.shape)


def watch(session, tmp_path, **patience) -> Watch:
    return Watch(session, tmp_path / "in", 0, Patience(settle=0, full=0, **patience))


def test_a_file_that_grows_waits_and_an_unreadable_one_is_put_aside_in_the_end(session, tmp_path):
    watched = watch(session, tmp_path, unreadable=0.2)
    (tmp_path / "in" / "a").mkdir()
    file = tmp_path / "in" / "a" / "x.png"
    for size in range(3):
        file.write_bytes(b"x" * (size + 1))
        assert watched._ready() == []
        time.sleep(0.15)
    time.sleep(0.1)
    ((path, reason),) = watched._ready()
    assert path == "a/x.png"
    assert "cannot" in reason or "no picture" in reason or "not" in reason
    watched._learn(watched._enter([(path, reason)]))
    assert session.progress.quarantined == 1
    assert session.progress.position == 1
    assert watched._ready() == []


def test_batches_behind_the_checkpoint_are_learned_again_to_the_bit_even_if_files_are_gone(session, tmp_path):
    watched = watch(session, tmp_path)
    for i in range(8):
        put(tmp_path / "in", f"{'ab'[i % 2]}/{i}.png", 180 * (i % 2))
    for _ in range(2):
        watched._learn(watched._enter(watched._ready()))
    expected = session.learner.state_dict()
    session.run.journal.commit()
    for file in (tmp_path / "in").glob("*/*.png"):
        file.unlink()
    prepared = prepare(session.run.config)
    session.progress.position = session.progress.step = session.progress.samples_seen = 0  # no checkpoint was written
    again = Session(session.run, prepared.learner, prepared.streams, prepared.shape)
    watch(again, tmp_path).replay()
    found = again.learner.state_dict()
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert again.progress.samples_seen == 8


def test_pictures_are_kept_only_as_long_as_a_checkpoint_might_need_them(session, tmp_path):
    watched = watch(session, tmp_path)
    for i in range(12):
        put(tmp_path / "in", f"{'ab'[i % 2]}/{i}.png", 180 * (i % 2))
    kept = []
    for _ in range(3):
        watched._learn(watched._enter(watched._ready()))
        watched._save()
        rows = session.run.journal.db.rows("SELECT COUNT(picture) AS n FROM arrivals")
        kept.append(rows[0]["n"])
    assert kept == [4, 4, 4] or kept == [4, 8, 8]


def test_a_checkpoint_at_the_same_step_again_drops_no_picture_that_the_one_before_needs(session, tmp_path):
    watched = watch(session, tmp_path)
    for i in range(8):
        put(tmp_path / "in", f"{'ab'[i % 2]}/{i}.png", 180 * (i % 2))
    for _ in range(2):
        watched._learn(watched._enter(watched._ready()))
        watched._save()
    expected = session.learner.state_dict()
    for _ in range(2):
        watched._save()
    path = tmp_path / "r"
    older, newest = steps(path / "checkpoints")
    (path / "checkpoints" / f"{newest:08d}" / "state.safetensors").write_bytes(b"damaged")
    for file in (tmp_path / "in").glob("*/*.png"):
        file.unlink()
    session.run.close()
    with Run.open(path, write=True) as run:
        assert run.progress.step == older
        prepared = prepare(run.config)
        again = Session(run, run.restore(prepared.learner), prepared.streams, prepared.shape)
        watch(again, tmp_path).replay()
        found = again.learner.state_dict()
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)


def test_a_name_that_is_no_text_is_put_aside_once_and_told(session, tmp_path):
    watched, told = watch(session, tmp_path), []
    session.show = told.append
    put(tmp_path / "in", "a/1.png", 0)
    put(tmp_path / "in", "b/2.png", 180)
    bad = tmp_path / "in" / "a" / b"caf\xe9.png".decode(errors="surrogateescape")
    try:
        bad.write_bytes((tmp_path / "in" / "a" / "1.png").read_bytes())
    except OSError:
        pytest.skip("this file system holds text alone")
    watched._learn(watched._enter(watched._ready()))
    reason = r"a/caf\xe9.png: a name that is not UTF-8; rename it, and it is learned then"
    assert [text for moment in told for text in moment.alarms if "UTF-8" in text] == [f"put aside: {reason}"]
    assert [row["reason"] for row in session.run.journal.quarantined()] == [reason]
    assert (session.progress.samples_seen, session.progress.quarantined) == (2, 1)
    assert watched._ready() == watch(session, tmp_path)._ready() == []
    bad.rename(bad.with_name("renamed.png"))
    assert [path for path, _ in watched._ready()] == ["a/renamed.png"]


def test_hidden_files_other_kinds_and_links_are_passed_over(session, tmp_path):
    watched = watch(session, tmp_path)
    put(tmp_path / "in", "a/1.png", 0)
    (tmp_path / "in" / "a" / "notes.txt").write_text("x")
    (tmp_path / "in" / "a" / ".2.png").write_bytes(b"x")
    put(tmp_path / "elsewhere", "b/3.png", 0)
    (tmp_path / "in" / "a" / "4.png").symlink_to(tmp_path / "elsewhere" / "b" / "3.png")
    (tmp_path / "in" / "b").symlink_to(tmp_path / "elsewhere" / "b")
    assert [path for path, _ in watched._ready()] == ["a/1.png"]
