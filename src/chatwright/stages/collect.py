"""Comparisons: two variants answer, annotators choose and grade (Llama 2, section 3.2.1)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from chatwright.annotators.base import Annotators, Candidate, Pair
from chatwright.artifact import Manifest, Request, stage_folder
from chatwright.dialogue import Prompt, render_prompt
from chatwright.errors import DataError
from chatwright.models.language_model import load_language_model
from chatwright.preference import Comparison, Task, comparison_to_json
from chatwright.recipe import CollectSettings, ModelSettings
from chatwright.rollout.torch import TorchRollouts
from chatwright.rows import write_jsonl
from chatwright.seeds import derive_seed
from chatwright.sources import read_prompts
from chatwright.training.progress import progress


@dataclass(frozen=True, slots=True)
class CollectInputs:
    """`variants` are one or two checkpoints (one: both sides come from it, at the two temperatures)."""

    variants: Sequence[str | Path]
    prompts: str | Path


def run(
    settings: CollectSettings, inputs: CollectInputs, output: Path, *, annotators: Annotators, model: ModelSettings, seed: int
) -> Manifest:
    """Sample pairs, have them judged, seal comparisons.jsonl (to train on) and test.jsonl (held out, split by prompt).

    Pairs that cannot be judged (an empty answer, twice the same) are discarded and counted, never voted on.
    Raises WaitingForPeople if the judgements are not there yet; the same call then goes on.
    """
    if len(inputs.variants) not in (1, 2):
        raise DataError(f"{len(inputs.variants)} variants; expected one or two checkpoints to compare")
    named = {"prompts": inputs.prompts, **{f"variant-{i}": path for i, path in enumerate(inputs.variants)}}
    request = Request.of("comparisons", named, {"collect": settings.model_dump(), "model": model.identity()}, seed)
    with stage_folder(output, request) as space:
        if isinstance(space, Manifest):
            return space
        tasks = _tasks(read_prompts(inputs.prompts), settings, seed)
        discarded: Counter[str] = Counter()
        pairs = []
        for pair in _pairs(tasks, settings, inputs.variants, model, space.work, seed):
            reason = _unfit(pair)
            if reason:
                discarded[reason] += 1
            else:
                pairs.append(pair)
        comparisons = annotators.judge(pairs)
        test = _test_prompts(pairs, settings.test_share, seed)
        prompt_of = {pair.id: pair.prompt.id for pair in pairs}
        rows = {True: [c for c in comparisons if prompt_of[c.id] in test], False: [c for c in comparisons if prompt_of[c.id] not in test]}
        write_jsonl(output / "comparisons.jsonl", [comparison_to_json(c) for c in rows[False]])
        write_jsonl(output / "test.jsonl", [comparison_to_json(c) for c in rows[True]])
        counts = {"comparisons": len(rows[False]), "test": len(rows[True]), **{f"discarded: {k}": v for k, v in sorted(discarded.items())}}
        thresholds = getattr(annotators, "thresholds", None)
        metrics = {
            "grades": _grades(comparisons),
            "safety_bins": _bins(comparisons),
            "thresholds": list(thresholds) if thresholds else None,
        }
        return space.seal(counts=counts, metrics=metrics)


def _tasks(prompts: Sequence[Prompt], settings: CollectSettings, seed: int) -> list[tuple[Task, Prompt]]:
    """Which prompt is judged by which guideline. A prompt comes back only after all of its kind have been used.

    Safety pairs are on adversarial prompts; borderline prompts take their share of both tasks, so that the safety model also sees what
    only sounds dangerous.
    """
    by_tag = {tag: [p for p in prompts if p.tag == tag] for tag in ("helpful", "adversarial", "borderline")}
    share = settings.borderline_share if by_tag["borderline"] else 0.0
    wanted: list[tuple[Task, str, int]] = []
    for task, tag, number in (("helpfulness", "helpful", settings.helpfulness_pairs), ("safety", "adversarial", settings.safety_pairs)):
        borderline = round(share * number)
        wanted += [(task, tag, number - borderline), (task, "borderline", borderline)]  # type: ignore[list-item]
    tasks: list[tuple[Task, Prompt]] = []
    for task, tag, number in wanted:
        if number and not by_tag[tag]:
            raise DataError(f"no {tag} prompts, but {number} {task} pairs are to be made of them; add such prompts or set the number to 0")
        repeats = -(-number // max(1, len(by_tag[tag])))
        shuffled = [p for turn in range(repeats) for p in _shuffled(by_tag[tag], derive_seed(seed, "tasks", task, tag, turn))]
        tasks += [(task, p) for p in shuffled[:number]]
    return tasks


def _shuffled(items: Sequence[Any], seed: int) -> list[Any]:
    return [items[i] for i in torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist()]


def _pairs(
    tasks: Sequence[tuple[Task, Prompt]],
    settings: CollectSettings,
    variants: Sequence[str | Path],
    model: ModelSettings,
    work: Path,
    seed: int,
) -> Iterator[Pair]:
    """The pairs in order, `chunk` at a time; chunks already in `work` are read instead of sampled again."""
    policies: list[Any] = []
    with progress("Sampling pairs", total=len(tasks), unit="pairs") as bar:
        for start in range(0, len(tasks), settings.chunk):
            part = work / f"pairs-{start:08d}.jsonl"
            if not part.exists():
                policies = policies or [load_language_model(path, model) for path in variants]
                chunk = _sample_chunk(tasks[start : start + settings.chunk], start, settings, policies, [str(v) for v in variants], seed)
                write_jsonl(part, [_pair_to_json(pair) for pair in chunk])
            rows = [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]
            yield from (_pair_from_json(row, prompt) for row, (_, prompt) in zip(rows, tasks[start : start + settings.chunk], strict=True))
            bar.advance(len(rows))


def _sample_chunk(
    tasks: Sequence[tuple[Task, Prompt]], start: int, settings: CollectSettings, policies: Sequence[Any], names: Sequence[str], seed: int
) -> list[Pair]:
    candidates: list[list[Candidate]] = []
    for side, temperature in enumerate(settings.temperatures):
        policy, name = policies[side % len(policies)], Path(names[side % len(names)]).name
        sampling = settings.sampling.model_copy(update={"temperature": temperature})
        sample_seed = derive_seed(seed, "collect", start, side)
        responses = TorchRollouts(policy).sample(
            [render_prompt(policy.tokenizer, p.messages) for _, p in tasks], sampling, seed=sample_seed
        )
        texts = [policy.tokenizer.decode(r.token_ids, skip_special_tokens=True).strip() for r in responses]
        candidates.append([Candidate(text, name, temperature, sample_seed, r.finished) for text, r in zip(texts, responses, strict=True)])
    pairs = []
    for i, ((task, prompt), first, second) in enumerate(zip(tasks, *candidates, strict=True)):
        pair_id = f"{task}-{start + i:06d}"
        left, right = (second, first) if derive_seed(seed, "side", pair_id) % 2 else (first, second)
        pairs.append(Pair(pair_id, prompt, task, left, right))
    return pairs


def _unfit(pair: Pair) -> str | None:
    if not pair.left.text or not pair.right.text:
        return "an empty answer"
    return "identical answers" if pair.left.text == pair.right.text else None


def _test_prompts(pairs: Sequence[Pair], share: float, seed: int) -> set[str]:
    """Ids of the prompts whose pairs are held out: a prompt is in one part only."""
    ids = sorted({pair.prompt.id for pair in pairs})
    return set(_shuffled(ids, derive_seed(seed, "test"))[: round(share * len(ids))])


def _grades(comparisons: Sequence[Comparison]) -> dict[str, int]:
    return dict(Counter(c.grade.value if c.grade else "missing" for c in comparisons))


def _bins(comparisons: Sequence[Comparison]) -> dict[str, int]:
    return dict(Counter(c.safety_bin for c in comparisons if c.task == "safety" and c.safety_bin))


def _pair_to_json(pair: Pair) -> dict[str, Any]:
    return {"id": pair.id, "task": pair.task, "left": asdict(pair.left), "right": asdict(pair.right)}


def _pair_from_json(row: dict[str, Any], prompt: Prompt) -> Pair:
    return Pair(row["id"], prompt, row["task"], Candidate(**row["left"]), Candidate(**row["right"]))
