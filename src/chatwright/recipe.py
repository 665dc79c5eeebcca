"""Typed settings of every stage. Defaults (the paper's) < YAML file < `key=value`.

Each field says what it is and in which unit; `chatwright schema` prints the JSON schema made from these classes. An unknown key is an
error that names the nearest known one. Learning-rate and size defaults are those of Llama 2 (7B), so a small model's recipe sets its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from chatwright.errors import SettingsError
from chatwright.maths.preference import margins_named
from chatwright.setting_list import nearest_setting, settings_as_markdown

Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused, numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation in (int, float):
            raise ValueError(f"{str(value).lower()} is a flag; expected a number")
        return value


def _default(settings: Settings, name: str) -> Any:
    return type(settings).model_fields[name].get_default()


def _off(value: Any) -> Any:
    """YAML 1.1 reads `off` as false; here it is a name."""
    return "off" if value is False else value


class LoraSettings(Settings):
    """Low-rank adapters instead of full fine-tuning."""

    rank: int = Field(16, ge=1, description="rank of each adapter")
    alpha: float = Field(32, gt=0, description="scale of each adapter is alpha / rank")
    targets: Literal["all-linear"] | list[str] = Field("all-linear", description="names of the modules that get an adapter")


class ModelSettings(Settings):
    """The base model and how to hold it."""

    path: str = Field(description="folder or hub name of a causal language model")
    revision: str | None = Field(None, description="hub revision")
    chat_template: Literal["plain", "chatml", "llama-2"] | None = Field(None, description="template to set; null keeps the tokenizer's own")
    lora: LoraSettings | None = Field(None, description="train adapters; null trains all weights. Saved models are merged either way")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute; auto takes a GPU if there is one")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the compute; auto takes bfloat16 only where it is fast"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory, more time")
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model; off unless you read that code")

    def identity(self) -> dict[str, Any]:
        """What makes two uses of a model different, besides its content: everything but the path, so that a run may be moved."""
        return self.model_dump(exclude={"path"})


class DataSettings(Settings):
    """Where dialogues and prompts come from: files (relative to the recipe) or hub data sets."""

    sft: list[str] = Field(description="dialogues to fine-tune on")
    prompts: str = Field(description="prompts for comparisons, rejection sampling and PPO")
    validation_prompts: str = Field(description="held-out prompts that PPO watches for early stopping")
    evaluation_prompts: str = Field(description="held-out prompts that only `evaluate` sees")
    showcase: str | None = Field(None, description="a few prompts whose answers by every policy are shown at the end")
    comparisons: list[str] = Field([], description="further helpfulness comparisons (open data) for the helpfulness model")


class OptimiserSettings(Settings):
    """AdamW and its learning-rate schedule."""

    learning_rate: float = Field(2e-5, gt=0, description="maximum learning rate")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="after the warm-up")
    final_share: Share = Field(0.1, description="cosine only: learning rate at the end, as a share of the maximum")
    warmup_share: Share = Field(0.03, description="share of the steps with a rising learning rate")
    warmup_min_steps: int = Field(0, ge=0, description="but at least this many steps")
    beta1: Share = Field(0.9, description="AdamW's first moment decay")
    beta2: Share = Field(0.95, description="AdamW's second moment decay")
    eps: float = Field(1e-5, gt=0, description="AdamW's epsilon")
    weight_decay: float = Field(0.1, ge=0, description="decoupled; not applied to norms, biases and value heads")
    max_grad_norm: float = Field(1.0, gt=0, description="longest gradient (2-norm over all weights); a longer one is scaled down to it")

    @model_validator(mode="after")
    def _nothing_ignored(self) -> OptimiserSettings:
        if self.schedule == "constant" and self.final_share != _default(self, "final_share"):
            raise ValueError("final_share is ignored with schedule: constant; leave it out or set schedule: cosine")
        return self


class BatchSettings(Settings):
    """How many examples make a step and how many tokens go through the model at once."""

    window: int = Field(4096, ge=8, description="longest sequence in tokens, prompt and answer together")
    too_long: Literal["error", "skip"] = Field(
        "error", description="a sequence over the window: stop with its name, or leave it out and count it"
    )
    micro_batch_tokens: int = Field(
        8192, ge=8, description="tokens, padding included, in one forward pass; never changes a result but for rounding"
    )
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")


class SftSettings(BatchSettings):
    """Supervised fine-tuning (Llama 2, section 3.1)."""

    optimiser: OptimiserSettings = Field(OptimiserSettings(), description="AdamW and its schedule")
    epochs: int = Field(2, ge=1, description="passes over the data")
    batch_size: int = Field(64, ge=1, description="dialogues a step")
    validation_share: Share = Field(0.05, description="share of the dialogues held out for the validation loss")
    validate_every: int = Field(20, ge=1, description="steps between validations")
    num_samples: int = Field(2, ge=0, description="answers sampled at each validation, for people to read")
    sample_tokens: int = Field(64, ge=1, description="length limit of those samples in tokens")


class SamplingSettings(Settings):
    """How answers are sampled."""

    temperature: float = Field(1.0, gt=0, description="logits are divided by it")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 is off")
    top_k: int = Field(0, ge=0, description="0 is off")
    max_new_tokens: int = Field(512, ge=1, description="length limit of an answer in tokens")
    batch_size: int = Field(128, ge=1, description="answers generated at once")


class CollectSettings(Settings):
    """Comparisons of answers from two variants (section 3.2.1)."""

    annotator: Literal["simulated", "file"] = Field(
        "simulated", description="who judges: simulated annotators of the world, or a file of judgements"
    )
    judgements: str | None = Field(None, description="annotator file: JSONL with id, choice, grade (and left_safe, right_safe)")
    helpfulness_pairs: int = Field(1000, ge=1, description="pairs judged by the helpfulness guideline")
    safety_pairs: int = Field(500, ge=0, description="pairs judged by the safety guideline, on adversarial and borderline prompts")
    borderline_share: Share = Field(0.2, description="share of the pairs of each task that are made of borderline prompts")
    temperatures: tuple[float, float] = Field((0.8, 1.1), description="sampling temperatures of the two variants")
    sampling: SamplingSettings = Field(SamplingSettings(), description="how answers are sampled")
    grades: Literal["four", "three"] = Field("four", description="the paper's four grades, or significantly / slightly / negligibly")
    test_share: Share = Field(0.15, description="share of the pairs held out to measure the reward models, split by prompt")
    thresholds: tuple[float, float, float] | None = Field(
        None, description="grade thresholds of simulated annotators; null freezes them at this batch"
    )
    chunk: int = Field(500, ge=1, description="pairs between two saves")

    @model_validator(mode="after")
    def _nothing_ignored(self) -> CollectSettings:
        if (self.annotator == "file") != (self.judgements is not None):
            raise ValueError("collect.judgements is needed with annotator: file and ignored with others; set both or neither")
        if self.annotator == "file" and self.thresholds is not None:
            raise ValueError("collect.thresholds is ignored with annotator: file; leave it out")
        if self.sampling.temperature != _default(self.sampling, "temperature"):
            raise ValueError("collect.sampling.temperature is ignored; set collect.temperatures, one a variant")
        return self


class RewardSettings(BatchSettings):
    """One reward model (section 3.2.2)."""

    optimiser: OptimiserSettings = Field(OptimiserSettings(learning_rate=1e-5, warmup_min_steps=5), description="AdamW and its schedule")
    epochs: int = Field(1, ge=1, description="passes over the pairs; more than one over-fits")
    batch_size: int = Field(512, ge=1, description="pairs a step")
    margin: Annotated[Literal["off", "small", "large"] | dict[str, float], BeforeValidator(_off)] = Field(
        "small", description="m(grade) of the ranking loss, or a number for each grade"
    )
    missing_grade: Literal["error", "negligibly"] = Field(
        "error", description="a pair without a grade: stop, or take it as negligibly better (margin 0)"
    )
    safety_loss_weight: float = Field(1.0, ge=0, description="weight of the safety classification loss in the safety model")
    helpfulness_in_safety: Share = Field(0.1, description="safety model: helpfulness pairs added, as a share of the mixture")
    safety_in_helpfulness: float = Field(
        1.0, ge=0, description="helpfulness model: safety pairs added, at most this many for each helpfulness pair"
    )
    calibration_answers: int = Field(256, ge=1, description="SFT answers whose mean score the bias makes 0")

    @model_validator(mode="after")
    def _margins_known(self) -> RewardSettings:
        margins_named(self.margin)
        return self


class RejectSettings(Settings):
    """Rejection sampling and fine-tuning on its best answers (section 3.2.3)."""

    num_prompts: int = Field(1000, ge=1, description="prompts to sample for")
    k: int = Field(10, ge=1, description="answers sampled for each prompt")
    sampling: SamplingSettings = Field(SamplingSettings(temperature=1.2), description="how answers are sampled")
    keep_best: Share = Field(1.0, gt=0, description="share of the prompts, those with the best kept answers, that go into fine-tuning")
    include_sft: bool = Field(True, description="fine-tune on the SFT data too")
    sft: SftSettings = Field(SftSettings(), description="fine-tuning on the kept answers")
    threshold: Share = Field(0.15, description="the gate: below this probability of being safe the safety model decides")
    chunk: int = Field(100, ge=1, description="prompts between two saves")


class PpoSettings(Settings):
    """Proximal policy optimisation against both reward models (section 3.2.3)."""

    iterations: int = Field(200, ge=1, description="rollout and update cycles, at most")
    rollouts: int = Field(512, ge=2, description="answers an iteration")
    mini_batch: int = Field(64, ge=1, description="answers a gradient step")
    epochs: int = Field(1, ge=1, description="passes over the rollouts of an iteration")
    sampling: SamplingSettings = Field(SamplingSettings(), description="how answers are sampled")
    beta: float = Field(0.01, ge=0, description="weight of the KL penalty, in whitened score units a nat")
    threshold: Share = Field(0.15, description="the gate: below this probability of being safe the safety model decides")
    no_end: Literal["keep", "penalise"] = Field(
        "penalise", description="a cut-off answer: keep its score, or take no_end_score instead (after whitening)"
    )
    no_end_score: float = Field(-3.0, description="score of a cut-off answer, in whitened units")
    gamma: Share = Field(1.0, description="discount")
    lam: Share = Field(0.95, description="GAE lambda")
    clip: float = Field(0.2, gt=0, description="policy ratio clip")
    value_clip: float = Field(0.2, gt=0, description="value clip")
    optimiser: OptimiserSettings = Field(
        OptimiserSettings(learning_rate=1e-6, schedule="constant", warmup_share=0.0), description="AdamW and its schedule"
    )
    critic_optimiser: OptimiserSettings = Field(
        OptimiserSettings(learning_rate=5e-6, schedule="constant", warmup_share=0.0), description="the same for the critic"
    )
    critic_warmup: int = Field(0, ge=0, description="first iterations that train the critic alone")
    max_kl: float | None = Field(None, gt=0, description="stop when KL to the reference passes this, nats an answer; null never")
    validate_every: int = Field(10, ge=1, description="iterations between looks at the held-out prompts")
    patience: int = Field(5, ge=1, description="stop after this many looks without a better held-out reward")
    micro_batch_tokens: int = Field(8192, ge=8, description="tokens, padding included, in one forward pass")
    checkpoint_every: int = Field(10, ge=1, description="iterations between checkpoints")

    @model_validator(mode="after")
    def _consistent(self) -> PpoSettings:
        if self.sampling.top_p != 1 or self.sampling.top_k != 0:
            raise ValueError("ppo.sampling needs top_p 1 and top_k 0: the update must see the distribution that was sampled from")
        if self.no_end == "keep" and self.no_end_score != _default(self, "no_end_score"):
            raise ValueError("ppo.no_end_score is ignored with no_end: keep; leave it out or set no_end: penalise")
        if self.rollouts % self.mini_batch:
            raise ValueError(f"ppo.rollouts {self.rollouts} is no multiple of ppo.mini_batch {self.mini_batch}")
        return self


class EvaluateSettings(Settings):
    """Measurement on held-out prompts."""

    sampling: SamplingSettings = Field(SamplingSettings(), description="how answers are sampled")
    baseline: str = Field("sft", description="the policy that others are compared with")
    max_prompts: int | None = Field(None, ge=1, description="use only the first so many; null uses all")


class Recipe(Settings):
    """A whole round: from a base model to a chat model."""

    name: str = Field("run", description="shown in reports and trackers")
    seed: int = Field(0, ge=0, description="all randomness derives from it")
    world: Literal["kitchen", "english"] | None = Field(
        None, description="who simulates annotators and measures: the kitchen's gold program, the rubric for English text, or nobody"
    )
    model: ModelSettings = Field(description="the base model and how to hold it")
    data: DataSettings = Field(description="where dialogues and prompts come from")
    sft: SftSettings = Field(SftSettings(), description="supervised fine-tuning")
    collect: CollectSettings = Field(CollectSettings(), description="comparisons of answers from two variants")
    reward: RewardSettings = Field(RewardSettings(), description="the two reward models")
    reject: RejectSettings = Field(RejectSettings(), description="rejection sampling and fine-tuning on its best answers")
    ppo: PpoSettings = Field(PpoSettings(), description="proximal policy optimisation against both reward models")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="measurement on held-out prompts")
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field([], description="besides metrics.jsonl")


def load_recipe(path: Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file with `key=value` overrides; `model.path` and `data.*` that exist beside the file become absolute.

    Raises SettingsError that names file, key, what was found, what was expected and, for an unknown key, the nearest known one.
    """
    values: dict[str, Any] = {}
    where = str(path) if path else "recipe"
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}; expected a recipe file (write one with: chatwright init)") from None
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path}: not UTF-8 text ({error.reason}); expected a recipe file in YAML") from None
        except yaml.YAMLError as error:
            raise SettingsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(loaded, dict):
            raise SettingsError(f"{path}: holds {type(loaded).__name__}; expected settings by name, such as 'model:'")
        values = loaded
    for override in overrides:
        _set(values, override)
    try:
        recipe = Recipe.model_validate(_merged(_DEFAULTS, values))
    except ValidationError as error:
        raise SettingsError(f"{where}: {_explain(error)}") from None
    return _resolve_paths(recipe, path.parent.resolve() if path else Path.cwd())


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe."""
    return Recipe.model_json_schema()


def settings_table() -> str:
    """Every setting with its type, default and meaning, as Markdown."""
    return settings_as_markdown(Recipe)


_STAGES = ("sft", "collect", "reward", "reject", "ppo", "evaluate")
# Partial settings in a file must fall back on the *stage's* defaults, not on those of the nested class.
_DEFAULTS: dict[str, Any] = {stage: Recipe.model_fields[stage].get_default().model_dump() for stage in _STAGES}


def _merged(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in values.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SettingsError(f"{override!r} is no setting; expected key=value, such as ppo.beta=0.02")
    try:
        value = _number_or(yaml.safe_load(text), text)
    except yaml.YAMLError:
        raise SettingsError(f"{override!r}: the value is not valid YAML; quote it") from None
    *sections, name = key.split(".")
    for section in sections:
        inner = values.get(section)
        values[section] = dict(inner) if isinstance(inner, dict) else {}
        values = values[section]
    values[name] = value


def _number_or(value: Any, text: str) -> Any:
    """YAML 1.1 reads 1e-5 as text; people mean the number."""
    if isinstance(value, str):
        try:
            return float(text)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError) -> str:
    found = [(_key(e["loc"]), e) for e in error.errors()]
    key, first = min(found, key=lambda pair: pair[1]["type"] != "extra_forbidden")  # a typo explains a missing key, not the reverse
    if first["type"] == "extra_forbidden":
        return f"unknown setting {key!r}; did you mean {nearest_setting(Recipe, key)!r}? (chatwright schema lists all)"
    if first["type"] == "missing":
        return f"setting {key!r} is missing; give it in the file or as {key}=VALUE"
    if first["type"] == "value_error" and isinstance(first["input"], dict):  # several settings that do not go together
        reason = str(first["ctx"]["error"])
        return reason if reason.startswith(key) else f"{key}: {reason}"
    # A setting of two kinds has an error for each: the one inside it is the nearer, else all of them count.
    key, first = next(((k, e) for k, e in found if k.startswith(f"{key}.")), (key, first))
    reasons = " or ".join(dict.fromkeys(_reason(e) for k, e in found if k == key)).replace("or expected", "or")
    return f"setting {key} = {first['input']!r:.80}: {reasons}"


def _key(location: Sequence[str | int]) -> str:
    """The dotted name; pydantic puts the kinds of a setting of two kinds in between."""
    return ".".join(str(part) for part in location if "[" not in str(part))


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "expected settings by name"
    text = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    return text.replace("expected greater", "expected a number greater").replace("expected less", "expected a number less")


def _resolve_paths(recipe: Recipe, folder: Path) -> Recipe:
    def resolve(name: str) -> str:
        path = (folder / name).expanduser()
        return str(path.resolve()) if path.exists() else name

    if recipe.model.revision and (folder / recipe.model.path).expanduser().exists():
        raise SettingsError(
            f"model.revision {recipe.model.revision!r} is ignored, since model.path is a folder; leave it out or name a hub model"
        )
    data = recipe.data
    resolved = {
        "sft": [resolve(s) for s in data.sft],
        "comparisons": [resolve(s) for s in data.comparisons],
        "showcase": resolve(data.showcase) if data.showcase else None,
        **{key: resolve(getattr(data, key)) for key in ("prompts", "validation_prompts", "evaluation_prompts")},
    }
    judgements = recipe.collect.judgements
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"path": resolve(recipe.model.path)}),
            "data": data.model_copy(update=resolved),
            "collect": recipe.collect.model_copy(update={"judgements": str((folder / judgements).resolve()) if judgements else None}),
        }
    )
