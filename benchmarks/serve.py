"""The review server under load: how long predictions take while it learns, SIGKILLs, and a long day's work.

    python benchmarks/serve.py latency   [--pairs 12] [--seconds 5]    # p95 of predicting, idle against under learning
    python benchmarks/serve.py kills     [--kills 50] [--clients 8]    # SIGKILLs while clients send reviews
    python benchmarks/serve.py endurance [--predictions 100000] [--reviews 10000]   # memory and handles stay flat

Each makes a run of scikit-learn's digits, starts `everlearn serve` on it as a user would, and speaks HTTP to it; with
``--json FILE`` its figures are put into FILE beside those of the others. The idle and the learning windows of `latency`
take turns, so that a machine whose speed drifts slows both alike; the peer is the server itself when it does not learn.
With ``--folder DIR`` the run is kept, and `endurance` goes on where it was ended, after ``--minutes`` or by hand.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from served_digits import Client, Expert, forms, make_run, on_disk, serving, sizes

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "server"))


def latency(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """p95 of predicting one picture over HTTP, in turns idle and while the queue of reviews is never empty."""
    bodies, times = forms(), {"idle": [], "learning": []}
    ratios, learned = [], 0
    with serving(make_run(folder / "run", args.size)) as (port, _):
        client = Client(port)
        cases = client.cases()
        _window(client, bodies, 3.0)
        for pair in range(args.pairs):
            p95 = {}
            for name in ("idle", "learning") if pair % 2 == 0 else ("learning", "idle"):
                if name == "learning":
                    for i in range(args.queued):
                        client.review(cases[(pair * args.queued + i) % len(cases)], "correct", str((pair + i) % 10))
                    before = client.queue()
                seconds = _window(client, bodies, args.seconds)
                times[name] += seconds
                p95[name] = _percentile(seconds, 0.95)
                if name == "learning":
                    left = client.queue()
                    learned += before - left
                    if left == 0:
                        raise SystemExit("the queue ran empty within a window; give a larger --queued")
                    while client.queue():
                        time.sleep(0.2)
                    time.sleep(1.5)  # the last version is loaded, the worklist scored anew
            ratios.append(p95["learning"] / p95["idle"])
            print(f"pair {pair + 1}: p95 {1e3 * p95['idle']:.2f} ms idle, {1e3 * p95['learning']:.2f} ms learning")
    found = {
        f"{name}_p{share}_ms": round(1e3 * _percentile(seconds, share / 100), 2)
        for name, seconds in times.items()
        for share in (50, 95, 99)
    }
    found |= {"ratio_p95": round(found["learning_p95_ms"] / found["idle_p95_ms"], 2)}
    found |= {
        "ratio_p95_of_pairs": [round(r, 2) for r in ratios],
        "median_of_pairs": round(statistics.median(ratios), 2),
    }
    return found | {"predictions": sum(map(len, times.values())), "reviews_learned_meanwhile": learned}


def _window(client: Client, bodies: list[bytes], seconds: float) -> list[float]:
    found, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        client.predict(bodies[len(found) % len(bodies)])
        found.append(time.perf_counter() - begun)
    return found


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * len(values))]


def kills(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """SIGKILL of the server at random moments; the check is that of tests/server/test_kill.py."""
    from test_kill import kill_and_check

    begun = time.monotonic()
    acknowledged = kill_and_check(make_run(folder / "run", 8), args.kills, args.clients, args.seed, pause=args.pause)
    return {
        "kills": args.kills, "clients": args.clients, "acknowledged": acknowledged,
        "asserted": "none lost, each learned once, the chain verifies",  # it raises where one does not hold
        "seconds": round(time.monotonic() - begun),
    }  # fmt: skip


def endurance(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Memory and handles of the server and its writer, over so many predictions and reviews.

    Several clients predict while an expert looks at case after case and gives verdicts; both keep in step with what is
    learned, so that they end together.
    """
    log = folder / "endurance.jsonl"
    before = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {name: before[-1][name] if before else 0 for name in ("predictions", "reviews")}
    rows: list[dict[str, Any]] = []
    until = time.monotonic() + 60 * args.minutes
    with serving(make_run(folder / "run", 8)) as (port, server):
        watcher, stop, one, due = Client(port), threading.Event(), threading.Lock(), 0.0
        waiting = [watcher.queue()]

        def go_on(name: str) -> bool:
            """Wait until it is not ahead of what is learned."""
            goal = getattr(args, name)
            while not stop.is_set() and done[name] < goal:
                learned = max(0, done["reviews"] - waiting[0])
                if done[name] / goal <= (learned + 100) / args.reviews:
                    return True
                time.sleep(0.05)
            return False

        def predict(bodies: list[bytes]) -> None:
            client = Client(port)
            while go_on("predictions"):
                client.predict(bodies[done["predictions"] // args.pictures % len(bodies)])
                with one:
                    done["predictions"] += args.pictures

        def review() -> None:
            expert, names = Expert(port), itertools.count(done["reviews"])
            while go_on("reviews"):
                expert.look(next(names))
                done["reviews"] += 1

        threads = [threading.Thread(target=predict, args=(forms(args.pictures),)) for _ in range(args.predictors)]
        threads.append(threading.Thread(target=review))
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and time.monotonic() < until:
                waiting[0] = watcher.queue()
                if time.monotonic() > due:
                    due = time.monotonic() + args.every
                    rows.append(sizes(server.pid) | done | {"run_mib": on_disk(folder / "run")})
                    with log.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
                time.sleep(0.2)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        while watcher.queue():
            time.sleep(0.5)
        verified, metrics = watcher.ask("GET", "/audit/verify"), watcher.ask("GET", "/metrics")
    found = {
        **done,
        "in_this_process": {name: done[name] - rows[0][name] for name in done},  # memory below is of one server
        "versions": metrics["version"],
        "chain": verified["fault"] or f"verifies, {verified['entries']} entries",
        "alarms": metrics["alarms"],
    }
    third = max(1, len(rows) // 3)
    for name in ("server_mib", "server_handles", "server_threads", "writer_mib", "writer_handles", "run_mib"):
        early, late = (
            statistics.median(row[name] for row in part) for part in (rows[third : 2 * third], rows[-third:])
        )
        found[name] = {"second_third": early, "last_third": late, "most": max(row[name] for row in rows)}
    return found | {"rows": rows[:: max(1, len(rows) // 10)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("latency", "kills", "endurance"))
    for name, default in (("pairs", 12), ("queued", 60), ("size", 32), ("kills", 50), ("clients", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("predictions", 100_000), ("reviews", 10_000), ("pictures", 4), ("predictors", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a window")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two rows of endurance")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which endurance ends, to be gone on with")
    parser.add_argument("--folder", type=Path, help="keep the run here")
    parser.add_argument("--pause", type=float, default=1.0, help="between one client's reviews, seconds")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server started here ends with this
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = {"latency": latency, "kills": kills, "endurance": endurance}[args.what](args, folder)
    found |= {
        "seed": args.seed, "torch": torch.__version__, "python": platform.python_version(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, 1 thread a process",
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if args.json:
        known = json.loads(args.json.read_text()) if args.json.exists() else {}
        args.json.write_text(json.dumps(known | {args.what: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
