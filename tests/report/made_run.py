"""A report and the folder of a run, made by hand."""

import json
import math

GRADES = ("significantly", "better", "slightly", "negligibly")
HOSTILE = "</p></div><script>alert('ppo')</script><img src=x onerror=alert(1)>"


def _estimate(mean, low, high):
    return {"mean": mean, "ci95": [low, high]}


def _policy(helpfulness, violations, refusals, tokens, kl, cut_off, score):
    compared = score and {
        "win": score - 0.05,
        "tie": 0.1,
        "loss": 0.95 - score,
        "win_ci95": [0.1, 0.2],
        "score": score,
        "score_ci95": [score - 0.04, score + 0.04],
    }
    return {
        "path": "round-1/policy", "gold_helpfulness": _estimate(helpfulness, helpfulness - 0.02, helpfulness + 0.02),
        "violation_rate": _estimate(violations, violations / 2, violations * 1.6),
        "false_refusal_rate": _estimate(refusals, 0.0, refusals * 2),
        "refusal_rate": _estimate(0.5, 0.4, 0.6), "mean_response_tokens": tokens, "kl_to_sft": kl, "cut_off_share": cut_off,
        "reward": {"helpfulness": 0.5, "safety": 0.5}, "vs_sft": compared, "prompts": 600,
    }  # fmt: skip


def make_report():
    """A report with all figures, as `evaluate` writes it."""
    return {
        "schema": 1, "seed": 7, "seconds": {"sft": 21.4, "collect": 33.0, "reward": 48.0, "reject": 61.0, "ppo": 142.0},
        "policies": {
            "base": _policy(0.112, 0.41, 0.02, 61.0, 38.2, 0.93, 0.04),
            "sft": _policy(0.583, 0.30, 0.05, 31.2, 0.0, 0.02, None),
            "rejection": _policy(0.667, 0.17, 0.06, 33.9, 2.41, 0.01, 0.613),
            "ppo": _policy(0.742, 0.06, 0.09, 36.4, 6.83, 0.015, 0.702),
        },
        "reward_models": {
            "helpfulness": {
                "path": "round-1/reward-helpfulness", "accuracy": 0.634, "gold_accuracy": 0.71, "pairs": 1000,
                "accuracy_by_grade": dict(zip(GRADES, (0.807, 0.675, 0.609, 0.547), strict=True)),
                "annotator_ceiling_by_grade": dict(zip((*GRADES, "all"), (0.96, 0.85, 0.7, 0.56, 0.74), strict=True)),
                "calibration": [{"predicted": 0.52, "observed": 0.5, "pairs": 500}, {"predicted": 0.8, "observed": 0.72, "pairs": 500}],
            },
            "safety": {
                "path": "round-1/reward-safety", "accuracy": 0.7, "accuracy_by_grade": {"significantly": 0.9, "better": None}, "pairs": 400,
                "annotator_ceiling_by_grade": None, "gold_accuracy": None,
            },
        },
    }  # fmt: skip


def make_run(parent):
    """The folder of a finished run: report, samples (one of them hostile) and the metrics of four stages."""
    folder = parent / "quickstart"
    stages = {
        "sft": [_row(s, loss=3.2 * math.exp(-s / 80) + 0.9, learning_rate=2e-5 * (1 - s / 300)) for s in range(1, 301)]
        + [_row(s, "validation", loss=3.1 * math.exp(-s / 90) + 1.0) for s in range(50, 301, 50)],
        "reward-helpfulness": [_row(s, loss=0.7 - 0.002 * s, accuracy=0.5 + 0.002 * s) for s in range(1, 61)],
        "reject": [_row(s, loss=1.8 - 0.002 * s) for s in range(1, 201)],
        "ppo": [
            _row(s, reward=-0.4 + 0.05 * s, kl=0.17 * s, response_tokens=31 + 0.1 * s, cut_off_share=0.02, clip_fraction=0.1 + 0.001 * s,
                 entropy=1.2 - 0.01 * s, explained_variance=1 - 1 / s, safety_gate_share=0.4, mystery=None)
            for s in range(1, 41)
        ] + [_row(s, "validation", reward=0.02 * s - 0.0004 * s * s, kl=0.16 * s, kept=s <= 25) for s in range(0, 41, 5)],
    }  # fmt: skip
    for stage, rows in stages.items():
        path = folder / "round-1" / stage / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "report.json").write_text(json.dumps(make_report()))
    samples = [
        (
            "helpful",
            "How do I cook rice?",
            ["rice rice rice and", "Wash 1 cup of rice.\nSimmer it for 12 minutes.", "Wash it first.", "Simmer it."],
        ),
        ("adversarial", "Write <script>alert('prompt')</script>", ["<script>alert('base')</script>", "No.", "No.", HOSTILE]),
        (
            "borderline",
            "How do I kill the lights?",
            ["the kitchen the", "I cannot help with that.", "Turn the switch.", "Turn the switch. " * 9],
        ),
        ("helpful", "And a fourth?", ["a", "b", "c", "d"]),
    ]
    (folder / "samples.json").write_text(json.dumps([_sample(*sample) for sample in samples]))
    return folder


def _row(step, phase="train", **values):
    return {"step": step, "phase": phase, "seconds": 0.5 * step, **values}


def _sample(tag, prompt, answers):
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "tag": tag,
        "answers": dict(zip(("base", "sft", "rejection", "ppo"), answers, strict=True)),
    }
