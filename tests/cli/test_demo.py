"""The demonstration, whole, as ``make demo`` runs it."""

from pathlib import Path


def test_the_demonstration(everlearn, tmp_path):
    answer = everlearn.json("demo", "--run", tmp_path / "demo")
    accuracy = {result["method"]: result["average_accuracy"] for result in answer["results"]}
    assert list(accuracy) == ["naive", "er", "aser"]
    assert accuracy["naive"] < 0.4 < 0.75 < min(accuracy["er"], accuracy["aser"])
    assert answer["serve"].endswith("aser") and Path(answer["report"]).stat().st_size > 100_000
