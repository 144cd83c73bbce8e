"""The API against its own OpenAPI schema, with requests that nobody would think of: no fault, no surprise."""

import shutil

import pytest

pytest.importorskip("fastapi", reason="serving is an extra")
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from everlearn.runs import Run
from everlearn.runs.reviewing import Reviewing
from everlearn.runs.reviews import Reviews
from everlearn.server import Settings, create_app

schemathesis = pytest.importorskip("schemathesis", reason="the API's contract is tested with schemathesis")


@pytest.fixture
def schema(learned_run, tmp_path):
    """Of a server of its own for each test: what one asks for, such as forgetting, shows in later answers."""
    path = shutil.copytree(learned_run, tmp_path / "run")
    with Run.open(path, write=True) as run:
        reviews = Reviews(run.journal.db)
        Reviewing(run, reviews)  # makes the first version
    app = create_app(Settings(path, learns=False, max_bytes=200_000))
    yield schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)
    app.state.desk.close()


def ask_everything(schema, examples):
    """So many requests of each operation; every answer must be one that the schema names."""
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=examples, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate),
        )  # fmt: skip
        @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes(operation))))
        def ask(case):
            nonlocal asked
            asked += 1
            case.call_and_validate(
                base_url="http://127.0.0.1", excluded_checks=[schemathesis.checks.positive_data_acceptance]
            )

        ask()
    return asked


def modes(operation):
    """What fits the schema, and, where anything could not, what does not."""
    good, bad = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
    return (good, bad) if operation.body or operation.query or operation.path_parameters else (good,)


def test_every_answer_is_one_that_the_schema_names(schema):
    assert ask_everything(schema, examples=8) > 100


@pytest.mark.slow
def test_every_answer_of_many(schema):
    assert ask_everything(schema, examples=60) > 800
