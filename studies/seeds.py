"""The quickstart over several seeds, and the claims it makes, checked one by one.

    python studies/seeds.py runs/seeds 0 1 2

A seed changes training, sampling and annotators; the base model and the prompts stay. Prints a Markdown table and, for each claim, whether
it held; a run that is already there is not done again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

GRADES = ("significantly", "better", "slightly", "negligibly")


def claims(report: dict[str, Any]) -> dict[str, bool]:
    """What the quickstart should show, by name."""
    policies, rewards = report["policies"], report["reward_models"]
    sft, rejection, ppo, base = (policies[name] for name in ("sft", "rejection", "ppo", "base"))

    def rising(model: str) -> bool:
        by_grade = [rewards[model]["accuracy_by_grade"][g] for g in GRADES]
        return all(a >= b for a, b in pairwise(by_grade))

    return {
        "base answers almost no request": base["gold_helpfulness"]["mean"] < 0.3 * sft["gold_helpfulness"]["mean"],
        "rejection sampling beats SFT": rejection["vs_sft"]["score_ci95"][0] > 0.5,
        "PPO beats SFT": ppo["vs_sft"]["score_ci95"][0] > 0.5,
        "violations fall fourfold from SFT to PPO": ppo["violation_rate"]["mean"] <= sft["violation_rate"]["mean"] / 4,
        "false refusals rise by at most five points": ppo["false_refusal_rate"]["mean"] <= sft["false_refusal_rate"]["mean"] + 0.05,
        "helpfulness accuracy rises with the grade": rising("helpfulness"),
        "safety accuracy rises with the grade": rising("safety"),
    }


def main() -> None:
    folder, seeds = Path(sys.argv[1]), sys.argv[2:]
    print("| seed | policy | gold helpfulness | violations | false refusals | win rate against SFT | tokens | KL to SFT |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    reports = {}
    for seed in seeds:
        run = folder / f"seed-{seed}"
        subprocess.run(
            [sys.executable, "-m", "chatwright.cli", "quickstart", str(run), f"seed={seed}", "--json"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        reports[seed] = json.loads((run / "report.json").read_text())
        for name, p in reports[seed]["policies"].items():
            low, high = p["vs_sft"]["score_ci95"]
            rates = " | ".join(f"{p[key]['mean']:.1%}" for key in ("violation_rate", "false_refusal_rate"))
            wins = f"{p['vs_sft']['score']:.1%} ({low:.1%}–{high:.1%})"
            tokens, kl = p["mean_response_tokens"], p["kl_to_sft"]
            print(f"| {seed} | {name} | {p['gold_helpfulness']['mean']:.3f} | {rates} | {wins} | {tokens:.1f} | {kl:.2f} |")
    print(
        "\n| seed | reward model | significantly | better | slightly | negligibly | all | gold |\n|---|---|---:|---:|---:|---:|---:|---:|"
    )
    for seed, report in reports.items():
        for name, r in report["reward_models"].items():
            cells = [r["accuracy_by_grade"][g] for g in GRADES] + [r["accuracy"], r["gold_accuracy"]]
            print(f"| {seed} | {name} | " + " | ".join(f"{c:.1%}" for c in cells) + " |")
    print()
    for claim in claims(next(iter(reports.values()))):
        print(f"- {claim}: " + ", ".join(f"seed {s} {'yes' if claims(r)[claim] else 'NO'}" for s, r in reports.items()))


if __name__ == "__main__":
    main()
