"""Every review is learned once, in order, to the same bits, whatever happens in between."""

import json
import math

import pytest
import torch

from everlearn.errors import RunError
from everlearn.runs import Config, Run, checkpoints, learn, versions
from everlearn.runs.review_step import learn_review
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import REVIEW_IDS, Review, Reviews


def finish(desk):
    while desk.reviewing.work():
        pass


def state(desk):
    return {name: tensor.clone() for name, tensor in desk.reviewing.learner.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def learned(desk):
    return [row["review"] for row in desk.reviews.learned()]


@pytest.fixture
def reference(opened, verdicts, run_path, tmp_path):
    """The state after all verdicts, learned without any trouble, on another copy of the run."""
    import shutil

    path = shutil.copytree(run_path, tmp_path / "reference")
    with Run.open(path, write=True) as run:
        reviews = Reviews(run.journal.db)
        reviewing = Reviewing(run, reviews)
        for verdict in verdicts:
            reviews.add(verdict)
        while reviewing.work():
            pass
        found = {name: tensor.clone() for name, tensor in reviewing.learner.state_dict().items()}
    return found


def test_each_is_learned_once_and_remembered(opened, verdicts):
    desk = opened()
    before = desk.reviewing.learner.samples_seen
    numbers = [desk.reviews.add(verdict)["number"] for verdict in verdicts]
    finish(desk)
    to_learn = [n for n in numbers if desk.reviews.get(n)["status"] == "learn"]
    assert learned(desk) == to_learn and desk.reviews.queue() == 0
    learner = desk.reviewing.learner
    assert learner.samples_seen == before + len(to_learn)
    held = learner.memory.ids[: learner.memory.size].tolist()
    assert to_learn[-1] + REVIEW_IDS in held and len(held) == len(set(held))
    assert desk.reviews.in_service()["reviews"] == len(to_learn)


def test_a_correction_holds_and_a_new_class_is_known(opened, pictures):
    desk = opened(margin=1.0)
    desk.reviews.add(Review("s0", "correct", "a new one", pictures[0][0].numpy()))
    finish(desk)
    learner = desk.reviewing.learner
    said = learner.predict(pictures[0][:1]).labels
    assert desk.run.journal.class_names()[int(said)] == "a new one"


def test_the_step_is_the_same_for_the_same_state(opened, pictures):
    found = []
    for _ in range(2):
        desk = opened()
        learn_review(desk.reviewing.learner, pictures[0][0], 2, REVIEW_IDS + 1, correction=True)
        found.append(state(desk))
        desk.close()
    assert same(*found)


@pytest.mark.parametrize("place", ["before the checkpoint", "before the version", "before the version is entered"])
@pytest.mark.parametrize("after", [1, 3])
def test_a_crash_anywhere_changes_no_bit(opened, verdicts, reference, monkeypatch, place, after):
    desk = opened(publish_after=0.0)  # a version for every review
    for verdict in verdicts:
        desk.reviews.add(verdict)
    target, name = {
        "before the checkpoint": (desk.run, "save"),
        "before the version": (desk.run.versions, "publish"),
        "before the version is entered": (desk.reviewing.guard, "check"),
    }[place]
    real, calls = getattr(target, name), []

    def crash(*values):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*values)

    monkeypatch.setattr(target, name, crash)
    with pytest.raises(KeyboardInterrupt):
        finish(desk)
    monkeypatch.undo()
    desk.close()
    desk = opened()
    finish(desk)
    assert same(state(desk), reference)
    assert len(learned(desk)) == len(set(learned(desk))) and desk.reviews.queue() == 0


def test_a_damaged_checkpoint_is_passed_over_and_learned_again_to_the_same_bits(opened, verdicts, reference, run_path):
    desk = opened(publish_after=0.0)
    for verdict in verdicts:
        desk.reviews.add(verdict)
    finish(desk)
    desk.close()
    for step in checkpoints.steps(run_path / "checkpoints")[-2:]:  # both: an earlier version must serve
        (run_path / "checkpoints" / f"{step:08d}" / "state.safetensors").write_bytes(b"damaged")
    desk = opened()
    assert desk.reviews.queue() > 0
    finish(desk)
    assert same(state(desk), reference)
    assert any(
        "damaged" in row["detail"] or "cannot be read" in row["detail"] for row in desk.run.journal.events("warning")
    )


def test_undo_of_a_learned_review_leaves_no_trace(opened, verdicts, run_path, tmp_path):
    desk = opened(publish_after=0.0)
    numbers = [desk.reviews.add(verdict)["number"] for verdict in verdicts]
    finish(desk)
    desk.reviews.withdraw(numbers[4], "me")
    finish(desk)
    found = state(desk)
    assert numbers[4] not in learned(desk) and numbers[4] + REVIEW_IDS not in found["memory.ids"]
    desk.close()
    desk = opened()  # and it stays so
    finish(desk)
    assert same(state(desk), found)


def test_undo_equals_never_having_learned_it(opened, verdicts):
    desk = opened(publish_after=0.0)
    for i, verdict in enumerate(verdicts[:6]):
        if i == 2:  # taken back before anything was learned: what never having learned it means
            desk.reviews.withdraw(desk.reviews.add(verdict)["number"], "me")
        else:
            desk.reviews.add(verdict)
    finish(desk)
    never, first = state(desk), desk.reviews.versions()[0]["number"]
    desk.reviews.order("roll back", {"version": first}, "me")
    finish(desk)
    with desk.reviews.transaction() as db:  # all six again, now learned before one is taken back
        db.execute("UPDATE reviews SET status = 'learn' WHERE status IN ('set aside', 'withdrawn')")
    finish(desk)
    assert len(learned(desk)) == 6 and not same(state(desk), never)
    desk.reviews.withdraw(3, "me")
    finish(desk)
    assert same(state(desk), never)


def test_roll_back_serves_an_earlier_version_and_sets_aside_what_came_after(opened, verdicts):
    desk = opened(publish_after=0.0, margin=1.0)
    for verdict in verdicts[:4]:
        desk.reviews.add(verdict)
    finish(desk)
    target = desk.reviews.versions()[2]
    number = desk.reviews.order("roll back", {"version": target["number"]}, "me")
    finish(desk)
    answer = json.loads(desk.reviews.rows("SELECT answer FROM orders WHERE number = ?", number)[0]["answer"])
    assert answer["set_aside"] == [3, 4] and learned(desk) == [1, 2]
    assert desk.reviews.in_service()["number"] == target["number"] and desk.reviewing.learner.step == target["step"]
    desk.reviews.add(verdicts[5])
    finish(desk)
    assert learned(desk) == [1, 2, 5]
    forward = desk.reviews.versions()[4]["number"]  # and forward again
    desk.reviews.order("roll back", {"version": forward}, "me")
    finish(desk)
    assert learned(desk) == [1, 2, 3, 4]
    desk.reviews.order("roll back", {"version": 99}, "me")
    finish(desk)
    assert "version 99 is not kept" in desk.reviews.rows("SELECT answer FROM orders ORDER BY number DESC")[0]["answer"]


def test_a_version_that_falls_is_not_put_in_service(opened, pictures, mislead):
    inputs, names = pictures
    desk = opened(margin=0.0, publish_after=math.inf)  # what waits goes into one version
    first = mislead(desk)
    known = desk.run.versions.load(first)[1]
    last = desk.reviews.versions()[-1]
    assert last["status"] == "refused" and f"than version {first}" in last["reason"]
    assert desk.reviews.in_service()["number"] == first < last["number"]
    assert same(desk.run.versions.load(first)[1], known)
    assert [row["number"] for row in desk.reviews.versions() if row["status"] == "in service"] == [first]
    desk.close()
    desk = opened(margin=1.0)  # a new writer measures the version in service anew
    desk.reviews.add(Review("s20", "accept", names[20], inputs[20].numpy()))
    finish(desk)
    assert desk.reviews.versions()[-1]["status"] == "in service"


def test_what_is_removed_from_memory_stays_out(opened, verdicts):
    desk = opened()
    held = desk.reviewing.learner.memory.ids[: desk.reviewing.learner.memory.size].tolist()
    desk.reviews.order("remove", {"ids": held[:2]}, "me")
    finish(desk)
    memory = desk.reviewing.learner.memory
    assert memory.size == len(held) - 2 and not set(held[:2]) & set(memory.ids[: memory.size].tolist())
    assert memory.counts.sum() == memory.size
    desk.reviews.order("roll back", {"version": desk.reviews.versions()[0]["number"]}, "me")  # a state that had them
    finish(desk)
    memory = desk.reviewing.learner.memory
    assert not set(held[:2]) & set(memory.ids[: memory.size].tolist())


def test_old_versions_are_thinned_out(opened, verdicts, run_path):
    assert versions.superfluous(list(range(1, 41)), 25) == [n for n in range(2, 29) if n not in (10, 20, 25)]


def test_a_run_that_has_learned_nothing_cannot_be_reviewed(opened, run_path):
    import shutil

    shutil.rmtree(run_path / "checkpoints")
    with pytest.raises(RunError, match="no checkpoint yet"):
        opened()


def test_a_review_that_cannot_be_learned_is_set_aside_and_loses_no_other(opened, verdicts, monkeypatch):
    from everlearn.runs import reviewing

    desk = opened()
    for verdict in verdicts[:5]:
        desk.reviews.add(verdict)
    real = reviewing.learn_review

    def broken(learner, picture, code, id_, *, correction):
        loss = real(learner, picture, code, id_, correction=correction)
        return float("nan") if id_ == REVIEW_IDS + 3 else loss

    monkeypatch.setattr(reviewing, "learn_review", broken)
    finish(desk)
    assert learned(desk) == [1, 2, 4, 5] and desk.reviews.get(3)["status"] == "set aside"
    assert any("review 3 cannot be learned" in row["detail"] for row in desk.run.journal.events("warning"))


def test_a_damaged_version_in_service_is_replaced(opened, run_path):
    desk = opened()
    first = desk.reviews.in_service()["number"]
    desk.close()
    file = run_path / "versions" / f"{first:08d}" / "state.safetensors"
    file.unlink()
    file.write_bytes(b"damaged")  # the version's own copy: the checkpoint is whole
    desk = opened()
    assert desk.reviews.in_service()["number"] == first + 1


@pytest.mark.parametrize(
    "settings", [{"method": "lwf"}, {"method": "icarl"}, {"method": "ewc"}, {"options": {"loss": "separated"}}]
)
def test_methods_that_look_at_task_borders_learn_reviews_too(learned_run, pictures, tmp_path, settings):
    learner = {"method": "er", "memory": 40, "precision": "float32"} | settings
    with Run.open(learned_run) as run:
        given = run.config.model_dump(include={"data", "stream"}) | {"learner": learner}
    with Run.create(tmp_path / "bordered", Config.of(given)) as run:
        learn(run)
        reviews = Reviews(run.journal.db)
        reviewing = Reviewing(run, reviews, margin=1.0)
        task = reviewing.learner.task
        for i, (verdict, label) in enumerate([("accept", pictures[1][0]), ("correct", "0"), ("correct", "a new one")]):
            reviews.add(Review(f"s{i}", verdict, label, pictures[0][i].numpy()))
        while reviewing.work():
            pass
        assert [row["review"] for row in reviews.learned()] == [1, 2, 3]
        assert [reviews.get(number)["status"] for number in (1, 2, 3)] == ["learn"] * 3
        assert reviewing.learner.task == task is not None and len(reviewing.learner.classes.codes) == 4
        said = reviewing.learner.predict(pictures[0][2:3]).labels
        assert run.journal.class_names()[int(said)] == "a new one"
