"""``compose.yaml`` and ``Dockerfile`` fit each other and the command line; no engine is needed for that."""

import re
from pathlib import Path

import pytest

from everlearn.cli.main import loaded
from everlearn.runs.postgres import without_secrets
from everlearn.runs.versions import check_store

yaml = pytest.importorskip("yaml", reason="compose.yaml is read with PyYAML")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_what_a_service_refers_to_is_there(compose):
    for service in compose["services"].values():
        assert ("image" in service) != ("build" in service)
        for volume in service["volumes"]:
            source = volume.rpartition(":")[0]
            assert source in compose["volumes"] or source.startswith("${RUN:-./")
        for other, how in service.get("depends_on", {}).items():
            known = compose["services"][other]
            assert how["condition"] == "service_healthy" and ("healthcheck" in known or "build" in known)
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) and all(port.startswith("127.0.0.1:") for port in ports)


def test_secrets_are_asked_for_and_written_nowhere(compose):
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            assert "PASSWORD" not in name or re.fullmatch(r"\$\{PGPASSWORD:\?.+\}", value)


@pytest.mark.parametrize("name", ["server", "replica"])
def test_the_commands_are_ours(compose, name):
    service = compose["services"][name]
    verb, *arguments = service["command"]
    command = loaded(verb)
    context = command.make_context(verb, list(arguments))  # raises for an option that there is not
    assert context.params["learns"] == (name == "server") and context.params["host"] == "0.0.0.0"
    assert service["ports"][0].endswith(f":{context.params['port']}")
    assert any(volume.endswith(f":{context.params['run']}") for volume in service["volumes"])
    given = service["environment"]
    options = {option.envvar for option in command.params if option.envvar}
    assert {name for name in given if name.startswith("EVERLEARN_")} <= options
    assert without_secrets(given["EVERLEARN_DATABASE"]) == given["EVERLEARN_DATABASE"]
    assert given["EVERLEARN_DATABASE"].split("/")[2] in compose["services"]
    store = check_store(given["EVERLEARN_STORE"].removeprefix("${EVERLEARN_STORE:-").removesuffix("}"))
    assert any(volume.endswith(":" + store.removeprefix("file://")) for volume in service["volumes"])


def test_the_image_holds_what_the_services_use(compose):
    lines = (ROOT / "Dockerfile").read_text()
    extras = re.search(r'"\.\[(.+)\]"', lines)[1].split(",")
    known = (ROOT / "pyproject.toml").read_text()
    assert {"serve", "postgres", "store"} <= set(extras) and all(f"\n{extra} = [" in known for extra in extras)
    assert 'ENTRYPOINT ["everlearn"]' in lines and "EXPOSE 8420" in lines and "USER everlearn" in lines
    for source in re.search(r"COPY (.+) \./", lines)[1].split():
        assert (ROOT / source).is_file()
    folders = {volume.rpartition(":")[2] for volume in compose["services"]["server"]["volumes"]}
    assert all(f'"{folder}"' in lines for folder in folders)
