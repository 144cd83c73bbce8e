"""What `everlearn serve` and its neighbours refuse: one line before anything is started or written."""

import shutil
import socket
import subprocess

import pytest

pytest.importorskip("fastapi", reason="serving is an extra")

from everlearn.cli.serve import _check_tls, serve, token
from everlearn.errors import EverlearnError, RunError, SettingError


@pytest.mark.parametrize(
    "make, line",
    [
        (lambda path: None, "is not a run: there is no such directory"),
        (lambda path: path.write_text(""), "is not a run: it is a file"),
        (lambda path: path.mkdir(), "is not a run: it has neither config.toml nor campaign.toml"),
    ],
)
def test_what_is_no_run_is_refused_and_stays_as_it_was(tmp_path, make, line):
    path = tmp_path / "it"
    make(path)
    before = sorted(tmp_path.rglob("*"))
    for command in (lambda: serve(path, port=8999), lambda: token(path, name="Dr Kim")):
        with pytest.raises(RunError, match=line):
            command()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_certificate_that_cannot_be_used_is_refused(run_path, tmp_path):
    (tmp_path / "no.pem").write_text("no certificate")
    for given, line in (
        ({"key": tmp_path / "no.pem"}, "--key is given without --certificate"),
        ({"certificate": tmp_path / "nothing.pem"}, "nothing.pem: No such file or directory; expected PEM files"),
        (
            {"certificate": tmp_path / "no.pem", "key": tmp_path / "no.pem"},
            "no.pem: they are not in PEM, or not a pair",
        ),
    ):
        with pytest.raises(SettingError, match=line) as told:
            serve(run_path, port=8999, **given)
        assert "\n" not in str(told.value)
    assert not (run_path / "secret").exists()


def test_a_certificate_with_its_key_is_taken(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    pair = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -out {} -keyout {}"
    subprocess.run(command.format(*pair).split(), check=True, capture_output=True)
    _check_tls(*pair)
    with pytest.raises(SettingError, match="expected PEM files of a certificate and its key"):
        _check_tls(pair[0], pair[0])


def test_a_port_in_use_is_refused(run_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EverlearnError, match=r"cannot listen on 127.0.0.1:.* choose another with --port"):
            serve(run_path, port=taken.getsockname()[1])
