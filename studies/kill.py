"""Kill the quickstart with SIGKILL at random moments, go on each time, and compare with a run that was left alone.

    python studies/kill.py runs/seeds/seed-0 runs/killed 10

The first folder holds a finished quickstart (made if it is missing); the second is killed the given number of times. Exits with 1 unless
every weight file and every number of report.json but the seconds are the same.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "chatwright.cli", "quickstart", str(folder), "seed=0"]


def outcome(folder: Path) -> dict[str, object]:
    """Hashes of all weights, and the report without times and paths."""
    weights = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.safetensors"))}
    report = json.loads((folder / "report.json").read_text())
    report.pop("seconds")
    for group in ("policies", "reward_models"):
        for figures in report[group].values():
            figures.pop("path")
    return {"weights": weights, "report": report}


def main() -> None:
    whole, killed, num_kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = sum(json.loads((whole / "report.json").read_text())["seconds"].values())
    shutil.rmtree(killed, ignore_errors=True)
    rng = random.Random(0)
    for number in range(num_kills):
        process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(8, 8 + 1.6 * seconds / num_kills))
        process.kill()
        process.wait()
        reached = sorted(p.parent.name for p in killed.glob("round-1/*/manifest.json"))
        print(f"kill {number + 1}: finished before it: {', '.join(reached) or 'nothing'}", flush=True)
    subprocess.run(command(killed), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    a, b = outcome(whole), outcome(killed)
    same = {key: a[key] == b[key] for key in a}
    print(f"after {num_kills} kills: {len(a['weights'])} weight files the same: {same['weights']}; report the same: {same['report']}")  # type: ignore[arg-type]
    sys.exit(0 if all(same.values()) else 1)


if __name__ == "__main__":
    main()
