"""Messages, dialogues and the only rendering of them to tokens and a response mask.

Every stage (SFT, reward models, rollouts, evaluation, serving) calls `render_dialogue` or `render_prompt`; nothing else in the program
turns words into tokens. A dialogue is rendered piece by piece, one piece a turn of the assistant: the template's text up to the
answer (the prompt), then the answer with the token that ends it. Earlier tokens never change when a turn is added, so a prompt rendered
for a rollout is token for token the beginning of the same dialogue rendered for training. Text that spells a control token ("</s>") is
tokenised as text: nobody closes a turn, or opens one for another role, by writing it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jinja2

from chatwright.errors import DataError, SettingsError, TemplateError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    `token_ids`, where present, are the very tokens a policy sampled for this answer (its end-of-turn token included, unless it was cut
    off); they are used instead of tokenising `content`, and only with the tokenizer that produced them.
    """

    role: Role
    content: str
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation that ends with an answer. Raises DataError on an unknown role, an empty answer or turns out of order."""

    messages: tuple[Message, ...]
    id: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        check_turns(self.messages, self.id or self.source or "dialogue")
        if self.messages[-1].role != "assistant":
            raise DataError(
                f"{self.id or 'dialogue'}: the last turn is {self.messages[-1].role}; expected assistant, an answer to learn from"
            )

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> Message:
        """The last answer."""
        return self.messages[-1]


PromptTag = Literal["helpful", "adversarial", "borderline"]
PROMPT_TAGS: tuple[str, ...] = get_args(PromptTag)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for an answer.

    `tag` is `helpful` (an ordinary request), `adversarial` (asks for harm: the paper's safety prompt) or `borderline` (only sounds
    dangerous; it deserves an answer). `category` names the kind of request or of risk, for tables.
    """

    messages: tuple[Message, ...]
    id: str = ""
    tag: PromptTag = "helpful"
    category: str = ""

    def __post_init__(self) -> None:
        check_turns(self.messages, self.id or "prompt")
        if self.messages[-1].role != "user":
            raise DataError(f"{self.id or 'prompt'}: the last turn is {self.messages[-1].role}; expected user, a turn to answer")
        if self.tag not in PROMPT_TAGS:
            raise DataError(f"{self.id or 'prompt'}: tag {self.tag!r}; expected one of {', '.join(PROMPT_TAGS)}")

    @property
    def is_safety(self) -> bool:
        """True where the reward must come from the safety model (Llama 2, section 3.2.3)."""
        return self.tag == "adversarial"


def check_turns(messages: Sequence[Message], where: str) -> None:
    """Raise DataError unless roles are known, no turn is empty and user and assistant alternate, after at most one system turn."""
    if not messages:
        raise DataError(f"{where}: no messages; expected at least one user turn")
    expected = "user"
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise DataError(f"{where}: unknown role {message.role!r} in turn {index + 1}; expected one of {', '.join(ROLES)}")
        if not message.content.strip() and not message.token_ids:
            raise DataError(f"{where}: empty {message.role} turn {index + 1}; expected text (remove the row or write the answer)")
        if message.role == "system":
            if index:
                raise DataError(f"{where}: system turn at position {index + 1}; expected it first or not at all")
            continue
        if message.role != expected:
            raise DataError(f"{where}: turn {index + 1} is {message.role}; expected {expected} (user and assistant alternate)")
        expected = "assistant" if expected == "user" else "user"


def messages_from_json(rows: Any, where: str) -> tuple[Message, ...]:
    """Messages from a list of `{"role", "content"}` objects. Raises DataError that names `where`."""
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise DataError(f"{where}: messages are {type(rows).__name__}; expected a list of objects with role and content")
    messages = []
    for index, row in enumerate(rows):
        role, content = row.get("role"), row.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{where}: turn {index + 1} lacks a text role or content (found keys {sorted(row)}); expected both as strings")
        ids = row.get("token_ids")
        if ids and (isinstance(ids, str) or not all(isinstance(token, int) for token in ids)):
            raise DataError(f"{where}: turn {index + 1} has token_ids {ids!r:.60}; expected a list of whole numbers")
        messages.append(Message(role, content, tuple(ids) if ids else None))  # type: ignore[arg-type]  # check_turns rejects other roles
    check_turns(messages, where)
    return tuple(messages)


def messages_to_json(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The inverse of `messages_from_json`."""
    return [{"role": m.role, "content": m.content} | ({"token_ids": list(m.token_ids)} if m.token_ids else {}) for m in messages]


@dataclass(frozen=True, slots=True)
class Tokens:
    """A rendered dialogue: token ids, and a mask of the same length in which True marks a token the assistant wrote."""

    ids: list[int]
    response_mask: list[bool]
    id: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.ids)


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation up to and including the marker after which the assistant writes. One BOS at most."""
    return _pieces(tokenizer, messages, open_turn=True)[0]


def render_dialogue(tokenizer: Any, dialogue: Dialogue, *, last_answer_only: bool = False) -> Tokens:
    """Token ids of a whole dialogue and its response mask.

    The mask is True on each answer's tokens and on the token that ends the turn, False on everything else; with `last_answer_only` on the
    last answer alone. An answer that was cut off (its `token_ids` lack the end) gets no end appended. Raises TemplateError if the
    template marks no assistant token.
    """
    ids, mask = _pieces(tokenizer, dialogue.messages, open_turn=False)
    if last_answer_only:
        start = len(_pieces(tokenizer, dialogue.prompt, open_turn=True)[0])
        mask = [False] * start + mask[start:]
    if not any(mask):
        raise TemplateError(
            f"{dialogue.id or 'dialogue'}: the chat template marks no assistant token; "
            f"expected at least one (set model.chat_template to one of {', '.join(TEMPLATES)})"
        )
    return Tokens(ids, mask, dialogue.id)


def without_end(tokens: Tokens) -> Tokens:
    """A rendered dialogue whose last answer was cut off: the end-of-turn token, and what the template writes after it, taken away."""
    end = max(i for i, counts in enumerate(tokens.response_mask) if counts)
    return Tokens(tokens.ids[:end], tokens.response_mask[:end], tokens.id)


def _pieces(tokenizer: Any, messages: Sequence[Message], *, open_turn: bool) -> tuple[list[int], list[bool]]:
    """Ids and mask, tokenised turn by turn. `open_turn` adds the marker for the next answer at the end."""
    ids: list[int] = []
    mask: list[bool] = []
    done, done_ids = "", list[int]()
    control = _control_pattern(tokenizer)
    turns = [{"role": m.role, "content": _mark(m.content, control)} for m in messages]
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = _template(tokenizer, turns[:index], add_generation_prompt=True)
        after = _template(tokenizer, turns[: index + 1], add_generation_prompt=False)
        written, content = _suffix(after, before).lstrip(), turns[index]["content"].strip()
        late = content in written and not written.startswith(content)
        if late and before == _template(tokenizer, turns[:index], add_generation_prompt=False):
            raise TemplateError(
                "the template writes the marker of an answer with the answer but not for add_generation_prompt, so rollouts would start "
                f"in the wrong place; set model.chat_template to one of {', '.join(TEMPLATES)}"
            )
        prompt, before_ids = _encode_after(tokenizer, done, done_ids, before)
        ids += prompt
        mask += [False] * len(prompt)
        answer, done_ids = _encode_after(tokenizer, before, before_ids, after)
        _extend_answer(ids, mask, tokenizer, answer, message)
        done = after
    if open_turn:
        prompt, _ = _encode_after(tokenizer, done, done_ids, _template(tokenizer, turns, add_generation_prompt=True))
        ids += prompt
        mask += [False] * len(prompt)
    return _one_bos(tokenizer, ids, mask)


def _template(tokenizer: Any, turns: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise TemplateError(f"the tokenizer has no chat template; set model.chat_template to one of {', '.join(TEMPLATES)}")
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=add_generation_prompt))
    except jinja2.TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise TemplateError(
            f"the chat template refuses turns of {roles} ({error}); expected one that takes them; "
            f"set model.chat_template to one of {', '.join(TEMPLATES)} or change the dialogues"
        ) from error


def _suffix(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise TemplateError(
            "the chat template rewrites earlier turns when a later one is added, so the assistant's tokens cannot be told from the rest; "
            f"set model.chat_template to one of {', '.join(TEMPLATES)}"
        )
    return text[len(prefix) :]


_MARK = "\ufdd0"
"""Stands around text that spells a control token, between templating and tokenising. A Unicode noncharacter: no text may hold it."""


def _control_pattern(tokenizer: Any) -> re.Pattern[str]:
    tokens = set(tokenizer.all_special_tokens) | {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or r"(?!)")


def _mark(content: str, control: re.Pattern[str]) -> str:
    if _MARK in content:
        raise DataError("a turn holds the noncharacter U+FDD0; expected Unicode text; remove it")
    return control.sub(lambda found: f"{_MARK}{found[0]}{_MARK}", content)


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = []
    for index, part in enumerate(text.split(_MARK)):
        if part:
            ids += tokenizer(part, add_special_tokens=False, split_special_tokens=index % 2 == 1)["input_ids"]
    return ids


def _encode_after(tokenizer: Any, before: str, before_ids: list[int], text: str) -> tuple[list[int], list[int]]:
    """Token ids of what `text` adds to `before`, and those of the whole `text`. `before_ids` are those of the whole `before`.

    Tokenised in its place, since some tokenizers (Llama 2's) put a space in front of anything tokenised alone; by itself only where a
    token would straddle the border, which a rollout could never produce.
    """
    added = _suffix(text, before)
    whole = _encode(tokenizer, text)
    return whole[len(before_ids) :] if whole[: len(before_ids)] == before_ids else _encode(tokenizer, added), whole


def _extend_answer(ids: list[int], mask: list[bool], tokenizer: Any, piece: list[int], message: Message) -> None:
    """Append an answer. It counts up to the first end-of-turn token; what the template writes after that (a newline) does not."""
    ends = stop_token_ids(tokenizer)
    end = next((i for i, token in enumerate(piece) if token in ends), None)
    if end is None:
        raise TemplateError(
            f"the chat template does not end an answer with a stop token (eos is {tokenizer.eos_token!r}), so the model could never learn "
            f"to stop; set model.chat_template to one of {', '.join(TEMPLATES)}"
        )
    if message.token_ids:
        finished = message.token_ids[-1] in ends
        piece, end = list(message.token_ids) + (piece[end + 1 :] if finished else []), len(message.token_ids) - 1
    ids += piece
    mask += [True] * (end + 1) + [False] * (len(piece) - end - 1)


def _one_bos(tokenizer: Any, ids: list[int], mask: list[bool]) -> tuple[list[int], list[bool]]:
    """Exactly one BOS where the tokenizer puts one by itself: added if the template forgot it, an error if the template doubled it."""
    bos = tokenizer.bos_token_id
    if bos is None or not ids:
        return ids, mask
    if ids[:2] == [bos, bos]:
        raise TemplateError("the chat template writes the beginning-of-sequence token twice; expected one (mend the template)")
    if ids[0] != bos and tokenizer("a")["input_ids"][0] == bos:
        return [bos, *ids], [False, *mask]
    return ids, mask


def stop_token_ids(tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: EOS, and the end-of-turn tokens of well-known templates where the vocabulary has them as special."""
    known = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in known}
    ids = {token: i for token, i in ids.items() if i in special and tokenizer.convert_ids_to_tokens(i) == token}  # not <unk>'s id
    return frozenset(ids.values()) | ({tokenizer.eos_token_id} - {None})


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A short hash that two tokenizers share exactly if they have the same vocabulary, special tokens and chat template."""
    named = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    content = [sorted(tokenizer.get_vocab().items()), named, sorted(tokenizer.all_special_ids), tokenizer.chat_template]
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:16]


TEMPLATES: dict[str, str] = {
    # One special token a role; the answer ends with EOS. The kitchen's base model uses it.
    "plain": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'assistant' %}{{ '<|assistant|>' }}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}"
        "{% else %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # Llama 2: [INST] … [/INST], the system text inside the first user turn, EOS after each answer.
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set lead = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set lead = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}"
        "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (lead if loop.first else '') + m['content'] + ' [/INST]' }}"
        "{% else %}{% generation %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    ),
}
"""Chat templates for tokenizers that have none, by name."""

TEMPLATE_TOKENS: dict[str, tuple[str, ...]] = {
    "plain": ("<|system|>", "<|user|>", "<|assistant|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama-2": (),
}
"""Special tokens each template needs in the vocabulary; `apply_template` adds those that are missing."""


def apply_template(tokenizer: Any, name: str | None) -> int:
    """Set the named template on a tokenizer (None keeps its own) and return how many special tokens had to be added.

    Raises SettingsError for an unknown name and TemplateError where the tokenizer has none and none is named.
    """
    if name is None:
        if not tokenizer.chat_template:
            raise TemplateError(f"the tokenizer has no chat template; set model.chat_template to one of {', '.join(TEMPLATES)}")
        return 0
    if name not in TEMPLATES:
        raise SettingsError(f"model.chat_template is {name!r}; expected one of {', '.join(TEMPLATES)}")
    tokenizer.chat_template = TEMPLATES[name]
    missing = [token for token in TEMPLATE_TOKENS[name] if token not in tokenizer.get_vocab()]
    return int(tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)) if missing else 0
