"""A run of digits behind `everlearn serve`, and who asks it: what benchmarks/serve.py works with."""

from __future__ import annotations

import http.client
import io
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_digits

from everlearn.runs import Config, Run, learn


def make_run(path: Path, size: int) -> Path:
    """Digits, learned once."""
    if (path / "config.toml").exists():
        return path
    torch.set_num_threads(1)
    config = Config.of({
        "data": {"source": "builtin:digits", "size": size}, "learner": {"method": "er", "memory": 200}
    })  # fmt: skip
    with Run.create(path, config) as run:
        learn(run)
    return path


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Any:
        self.connection.request(method, "/api/v1" + path, body, {"content-type": kind})
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
        return json.loads(content)

    def review(self, case: str, verdict: str, label: str, **seen: Any) -> int:
        given = {"case_id": case, "verdict": verdict, "label": label, "key": uuid.uuid4().hex} | seen
        return int(self.ask("POST", "/reviews", json.dumps(given).encode())["number"])

    def predict(self, form: bytes) -> None:
        self.ask("POST", "/predict", form, "multipart/form-data; boundary=BOUNDARY")

    def queue(self) -> int:
        return int(self.ask("GET", "/health")["queue"])

    def cases(self) -> list[str]:
        return [case["id"] for case in self.ask("GET", "/worklist?order=arrival&pending=false&limit=1000")["cases"]]


def forms(pictures: int = 1) -> list[bytes]:
    """Bodies of requests to predict, of so many digits each."""
    found = []
    for start in range(0, 64 * pictures, pictures):
        parts = []
        for pixels in load_digits().images[start : start + pictures]:
            file = io.BytesIO()
            Image.fromarray((pixels * 15.9).astype("uint8")).save(file, "PNG")
            head = b'--BOUNDARY\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            parts.append(head + file.getvalue() + b"\r\n")
        found.append(b"".join(parts) + b"--BOUNDARY--\r\n")
    return found


@contextmanager
def serving(path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server of the run on a free port; gives the port and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "everlearn.cli", "serve", str(path), "--port", str(port), "--margin", "1"],
        stdout=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                Client(port).queue()
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.2)
        yield port, server
    finally:
        server.terminate()
        server.wait(timeout=120)


class Expert:
    """Knows the digits, errs in every twentieth verdict, and looks at the explanation of every twentieth case."""

    def __init__(self, port: int) -> None:
        self.client, self.truth = Client(port), load_digits().target
        self.cases = self.client.cases()

    def look(self, number: int) -> None:
        case = self.cases[number % len(self.cases)]
        said = self.client.ask("GET", f"/cases/{case}")["score"]
        if number % 20 == 10:
            self.client.ask("GET", f"/cases/{case}/explanation")
        true = str((self.truth[int(case[1:])] + (number % 20 == 0)) % 10)
        seen = {"said": said["label"], "version": said["version"]}
        self.client.review(case, "accept" if said["label"] == true else "correct", true, **seen)


def sizes(pid: int) -> dict[str, float]:
    """Resident MiB, open handles and threads of the server, and of the writer it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found: dict[str, float] = {}
    for name, number in [("server", str(pid)), *(("writer", child) for child in children[:1])]:
        status = Path(f"/proc/{number}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        found[f"{name}_mib"] = round(int(fields["RssAnon"].split()[0]) / 1024, 1)
        found[f"{name}_threads"] = int(fields["Threads"])
        found[f"{name}_handles"] = len(list(Path(f"/proc/{number}/fd").iterdir()))
    return found


def on_disk(folder: Path) -> float:
    """MiB of a folder's files, each counted once."""
    sizes = {}
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            sizes[file.stat().st_ino] = file.stat().st_size
    return round(sum(sizes.values()) / 2**20, 1)
