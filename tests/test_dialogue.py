"""Rendering: one BOS, one mask, the whole equal to its turns, sampled tokens untouched."""

from __future__ import annotations

from itertools import pairwise

import pytest
from conftest import TEXT, make_tokenizer
from tokenizers import Tokenizer, models, normalizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from chatwright.dialogue import (
    TEMPLATES,
    Dialogue,
    Message,
    Prompt,
    apply_template,
    messages_from_json,
    messages_to_json,
    render_dialogue,
    render_prompt,
    stop_token_ids,
    tokenizer_fingerprint,
    without_end,
)
from chatwright.errors import DataError, SettingsError, TemplateError

SYSTEM = Message("system", "Be brief.")
ASK = Message("user", "How do I bake oat cookies?")
ANSWER = Message("assistant", "Mix oats, butter and sugar.")
MORE = Message("user", "How long?")
LAST = Message("assistant", "Twelve minutes.")
TWO_TURNS = Dialogue((SYSTEM, ASK, ANSWER, MORE, LAST))


def counted(tokenizer, tokens) -> str:
    """The text under the mask."""
    return tokenizer.decode([i for i, counts in zip(tokens.ids, tokens.response_mask, strict=True) if counts])


def hugging_face(tokenizer, dialogue, **options):
    return tokenizer.apply_chat_template(messages_to_json(dialogue.messages), tokenize=True, return_dict=True, **options)


def llama_like_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that, like Llama 2's, puts a space in front of any text it is given, adds BOS by itself and has an <unk>."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    letters = sorted(set("".join(TEXT)) | set("▁[]/INSTY<>\n"))
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, initial_alphabet=letters, show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), special, strict=True))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    apply_template(tokenizer, "llama-2")
    return tokenizer


# --- One BOS, the whole equals its turns


def test_the_plain_template_writes_one_token_a_role_and_eos(tokenizer):
    tokens = render_dialogue(tokenizer, Dialogue((Message("user", "a"), Message("assistant", "b"))))
    assert tokenizer.convert_ids_to_tokens(tokens.ids) == ["<|bos|>", "<|user|>", "a", "<|assistant|>", "b", "<|eos|>"]
    assert tokens.response_mask == [False, False, False, False, True, True]


def test_there_is_exactly_one_bos(tokenizer):
    tokens = render_dialogue(tokenizer, TWO_TURNS)
    assert tokens.ids[0] == tokenizer.bos_token_id
    assert tokens.ids.count(tokenizer.bos_token_id) == 1


def test_the_llama_2_template_begins_each_exchange_with_one_bos(llama2_tokenizer):
    ids = render_dialogue(llama2_tokenizer, TWO_TURNS).ids
    bos, eos = llama2_tokenizer.bos_token_id, llama2_tokenizer.eos_token_id
    assert ids[0] == bos
    assert [pair for pair in pairwise(ids) if pair[1] == bos] == [(eos, bos)]


def test_a_bos_that_the_template_forgets_is_added_where_the_tokenizer_adds_one():
    tokenizer = llama_like_tokenizer()
    tokenizer.chat_template = TEMPLATES["llama-2"].replace("bos_token + ", "")
    tokens = render_dialogue(tokenizer, TWO_TURNS)
    assert tokens.ids[0] == tokenizer.bos_token_id
    assert tokens.ids.count(tokenizer.bos_token_id) == 1
    assert tokens.response_mask[0] is False
    assert len(tokens.ids) == len(tokens.response_mask)


def test_a_template_that_doubles_bos_is_an_error(tokenizer):
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATES["plain"]
    with pytest.raises(TemplateError, match="twice; expected one"):
        render_dialogue(tokenizer, TWO_TURNS)


def test_the_whole_equals_what_transformers_renders(any_tokenizer):
    assert render_dialogue(any_tokenizer, TWO_TURNS).ids == hugging_face(any_tokenizer, TWO_TURNS)["input_ids"]


def test_the_prompt_equals_what_transformers_renders(any_tokenizer):
    expected = any_tokenizer.apply_chat_template(messages_to_json(TWO_TURNS.prompt), add_generation_prompt=True)["input_ids"]
    assert render_prompt(any_tokenizer, TWO_TURNS.prompt) == expected


def test_a_prompt_is_the_beginning_of_the_dialogue_at_every_turn(any_tokenizer):
    whole = render_dialogue(any_tokenizer, TWO_TURNS).ids
    for turns in (2, 4):
        prompt = render_prompt(any_tokenizer, TWO_TURNS.messages[:turns])
        assert whole[: len(prompt)] == prompt
    first = render_dialogue(any_tokenizer, Dialogue(TWO_TURNS.messages[:3])).ids
    assert whole[: len(first)] == first


def test_an_answer_is_tokenised_in_its_place_by_tokenizers_that_add_a_space():
    tokenizer = llama_like_tokenizer()
    tokens = render_dialogue(tokenizer, TWO_TURNS)
    assert tokens.ids == hugging_face(tokenizer, TWO_TURNS)["input_ids"]
    assert "▁▁" not in "".join(tokenizer.convert_ids_to_tokens(tokens.ids))


def test_a_token_never_straddles_the_border_of_an_answer(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    assert tokenizer.tokenize("the") == ["th", "e"]  # tokenised at once, the border would lie inside a token
    tokens = render_dialogue(tokenizer, Dialogue((Message("user", "t"), Message("assistant", "he"))))
    assert tokenizer.convert_ids_to_tokens(tokens.ids) == ["t", "h", "e", "<|eos|>"]
    assert tokens.response_mask == [False, True, True, True]


def test_a_template_that_rewrites_earlier_turns_is_an_error(tokenizer):
    tokenizer.chat_template = TEMPLATES["plain"].replace(
        "{{ m['content'] + eos_token }}", "{{ (m['content'] if loop.last else '(cut)') + eos_token }}"
    )
    assert render_dialogue(tokenizer, Dialogue((ASK, ANSWER)))
    with pytest.raises(TemplateError, match="rewrites earlier turns"):
        render_dialogue(tokenizer, TWO_TURNS)


# --- The mask


def test_the_mask_equals_the_one_transformers_makes(any_tokenizer):
    theirs = hugging_face(any_tokenizer, TWO_TURNS, return_assistant_tokens_mask=True)
    tokens = render_dialogue(any_tokenizer, TWO_TURNS)
    assert tokens.ids == theirs["input_ids"]
    assert tokens.response_mask == [bool(counts) for counts in theirs["assistant_masks"]]


def test_every_answer_counts_with_the_token_that_ends_it(tokenizer, chatml_tokenizer, llama2_tokenizer):
    first, last = "Mix oats, butter and sugar.", "Twelve minutes."
    assert counted(tokenizer, render_dialogue(tokenizer, TWO_TURNS)) == f"{first}<|eos|>{last}<|eos|>"
    assert counted(chatml_tokenizer, render_dialogue(chatml_tokenizer, TWO_TURNS)) == f"{first}<|im_end|>{last}<|im_end|>"
    assert counted(llama2_tokenizer, render_dialogue(llama2_tokenizer, TWO_TURNS)) == f" {first} <|eos|> {last} <|eos|>"


def test_last_answer_only_counts_the_last_answer(tokenizer, chatml_tokenizer):
    assert counted(tokenizer, render_dialogue(tokenizer, TWO_TURNS, last_answer_only=True)) == "Twelve minutes.<|eos|>"
    assert counted(chatml_tokenizer, render_dialogue(chatml_tokenizer, TWO_TURNS, last_answer_only=True)) == "Twelve minutes.<|im_end|>"


def test_last_answer_only_changes_no_token(any_tokenizer):
    assert render_dialogue(any_tokenizer, TWO_TURNS, last_answer_only=True).ids == render_dialogue(any_tokenizer, TWO_TURNS).ids


def test_no_token_of_the_prompt_counts(any_tokenizer):
    tokens = render_dialogue(any_tokenizer, Dialogue((SYSTEM, ASK, ANSWER)))
    prompt = render_prompt(any_tokenizer, (SYSTEM, ASK))
    assert not any(tokens.response_mask[: len(prompt)])
    assert tokens.response_mask[len(prompt)] is True


def test_a_template_without_generation_marks_still_gets_a_mask(tokenizer):
    marked = render_dialogue(tokenizer, TWO_TURNS)
    tokenizer.chat_template = TEMPLATES["plain"].replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert render_dialogue(tokenizer, TWO_TURNS) == marked


def test_a_template_that_leaves_answers_out_is_an_error_not_an_all_ones_mask(tokenizer):
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(TemplateError, match="stop token"):
        render_dialogue(tokenizer, Dialogue((ASK, ANSWER)))


def test_a_template_without_an_end_of_turn_is_an_error(tokenizer):
    tokenizer.chat_template = TEMPLATES["plain"].replace(" + eos_token", "")
    with pytest.raises(TemplateError, match=r"does not end an answer with a stop token \(eos is '<\|eos\|>'\)"):
        render_dialogue(tokenizer, Dialogue((ASK, ANSWER)))


def test_a_template_deaf_to_add_generation_prompt_is_an_error(tokenizer):
    turn = "{{ '<|' + m['role'] + '|>' + m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}" + turn + "{% endfor %}"
    with pytest.raises(TemplateError, match="add_generation_prompt"):
        render_dialogue(tokenizer, Dialogue((ASK, ANSWER)))


def test_a_missing_template_names_the_setting(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(TemplateError, match=r"set model.chat_template to one of plain, chatml, llama-2"):
        render_prompt(tokenizer, (ASK,))


def test_a_template_that_refuses_a_role_is_an_error_with_its_reason(tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATES["plain"]
    )
    with pytest.raises(TemplateError, match=r"refuses turns of system, user \(no system role\)"):
        render_dialogue(tokenizer, TWO_TURNS)


# --- Control tokens in text


def test_a_user_who_spells_a_control_token_does_not_write_one(any_tokenizer):
    spelled = "stop " + "".join(sorted(any_tokenizer.all_special_tokens)) + " go"
    prompt = render_prompt(any_tokenizer, (Message("user", spelled),))
    plain = render_prompt(any_tokenizer, (Message("user", "stop  go"),))
    special = set(any_tokenizer.all_special_ids)
    assert [i for i in prompt if i in special] == [i for i in plain if i in special]
    assert spelled in any_tokenizer.decode(prompt)


def test_an_answer_that_spells_eos_counts_to_its_real_end(tokenizer):
    tokens = render_dialogue(tokenizer, Dialogue((ASK, Message("assistant", "write <|eos|> here"))))
    assert tokens.ids.count(tokenizer.eos_token_id) == 1
    assert counted(tokenizer, tokens) == "write <|eos|> here<|eos|>"
    assert tokens.response_mask[-1] is True


def test_spelled_control_tokens_get_the_ids_transformers_gives_sanitised_text(any_tokenizer):
    dialogue = Dialogue((Message("user", "say <|eos|> or <|pad|>"), Message("assistant", "<|eos|> and <|bos|>")))
    assert render_dialogue(any_tokenizer, dialogue).ids == hugging_face(any_tokenizer, dialogue, sanitize_control_tokens=True)["input_ids"]


def test_the_noncharacter_that_marks_them_is_refused(tokenizer):
    with pytest.raises(DataError, match=r"noncharacter U\+FDD0"):
        render_prompt(tokenizer, (Message("user", "a \ufdd0 b"),))


# --- Sampled tokens


def test_sampled_tokens_travel_untouched_though_their_text_tokenises_differently(tokenizer):
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "bake"]
    assert tokenizer("bake", add_special_tokens=False)["input_ids"] != letters  # the tokenizer would merge them
    sampled = (*letters, tokenizer.eos_token_id)
    tokens = render_dialogue(tokenizer, Dialogue((ASK, Message("assistant", "bake", sampled), MORE, LAST)))
    start = len(render_prompt(tokenizer, (ASK,)))
    assert tuple(tokens.ids[start : start + 5]) == sampled
    assert tokens.response_mask[start : start + 5] == [True] * 5
    assert tokens.response_mask[start + 5] is False
    assert counted(tokenizer, tokens) == "bake<|eos|>Twelve minutes.<|eos|>"


def test_a_cut_off_answer_gets_no_end(tokenizer, chatml_tokenizer):
    for tok in (tokenizer, chatml_tokenizer):
        sampled = tuple(tok("Mix oats", add_special_tokens=False)["input_ids"])
        tokens = render_dialogue(tok, Dialogue((ASK, Message("assistant", "Mix oats", sampled))))
        assert tokens.ids == [*render_prompt(tok, (ASK,)), *sampled]
        assert counted(tok, tokens) == "Mix oats"


def test_what_the_template_writes_after_a_finished_answer_follows_sampled_tokens_and_does_not_count(chatml_tokenizer):
    sampled = (*chatml_tokenizer("Mix", add_special_tokens=False)["input_ids"], chatml_tokenizer.eos_token_id)
    tokens = render_dialogue(chatml_tokenizer, Dialogue((ASK, Message("assistant", "Mix", sampled))))
    assert chatml_tokenizer.decode(tokens.ids[-2:]) == "<|im_end|>\n"
    assert tokens.response_mask[-2:] == [True, False]


def test_an_answer_of_eos_alone_is_one_counted_token(tokenizer):
    tokens = render_dialogue(tokenizer, Dialogue((ASK, Message("assistant", "", (tokenizer.eos_token_id,)))))
    assert sum(tokens.response_mask) == 1
    assert tokens.ids[-1] == tokenizer.eos_token_id


def test_empty_token_ids_mean_none(tokenizer):
    assert render_dialogue(tokenizer, Dialogue((ASK, Message("assistant", "Yes.", ())))) == render_dialogue(
        tokenizer, Dialogue((ASK, Message("assistant", "Yes.")))
    )


def test_lengths_are_right_where_pad_is_eos():
    tokenizer = make_tokenizer("plain", pad_token="<|eos|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    tokens = render_dialogue(
        tokenizer, Dialogue((Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d")))
    )
    written = ["<|bos|>", "<|user|>", "a", "<|assistant|>", "b", "<|eos|>", "<|user|>", "c", "<|assistant|>", "d", "<|eos|>"]
    assert tokenizer.convert_ids_to_tokens(tokens.ids) == written
    assert len(tokens) == 11
    assert [n for n, counts in enumerate(tokens.response_mask) if counts] == [4, 5, 9, 10]


# --- Stop tokens, templates, fingerprints


def test_the_unknown_token_never_stops_an_answer():
    tokenizer = llama_like_tokenizer()
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.unk_token_id  # the trap
    assert stop_token_ids(tokenizer) == {tokenizer.eos_token_id}


def test_an_end_of_turn_token_stops_beside_eos():
    tokenizer = make_tokenizer("chatml")
    assert stop_token_ids(tokenizer) == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_applying_a_template_adds_its_tokens_once():
    tokenizer = make_tokenizer("llama-2")
    before = len(tokenizer)
    assert apply_template(tokenizer, "chatml") == 2
    assert apply_template(tokenizer, "chatml") == 0
    assert len(tokenizer) == before + 2
    assert apply_template(tokenizer, None) == 0


def test_an_unknown_template_lists_the_known_ones(tokenizer):
    with pytest.raises(SettingsError, match="'alpaca'; expected one of plain, chatml, llama-2"):
        apply_template(tokenizer, "alpaca")


def test_no_template_at_all_is_an_error(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(TemplateError, match="has no chat template"):
        apply_template(tokenizer, None)


def test_a_saved_tokenizer_keeps_its_fingerprint_and_rendering(any_tokenizer, tmp_path):
    any_tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(any_tokenizer)
    assert render_dialogue(loaded, TWO_TURNS) == render_dialogue(any_tokenizer, TWO_TURNS)


def test_vocabulary_template_and_special_tokens_each_change_the_fingerprint(tokenizer, chatml_tokenizer):
    prints = {tokenizer_fingerprint(tokenizer), tokenizer_fingerprint(chatml_tokenizer)}
    tokenizer.chat_template += " "
    prints.add(tokenizer_fingerprint(tokenizer))
    tokenizer.pad_token, tokenizer.eos_token = "<|eos|>", "<|pad|>"  # the same set of tokens in other parts
    prints.add(tokenizer_fingerprint(tokenizer))
    tokenizer.add_tokens(["oats"])
    prints.add(tokenizer_fingerprint(tokenizer))
    assert len(prints) == 5


# --- Turns


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ((), "no messages; expected at least one user turn"),
        ((Message("tool", "x"), ANSWER), "unknown role 'tool' in turn 1; expected one of system, user, assistant"),
        ((ASK, Message("assistant", "  ")), "empty assistant turn 2"),
        ((ANSWER,), "turn 1 is assistant; expected user"),
        ((ASK, MORE, ANSWER), "turn 2 is user; expected assistant"),
        ((ASK, SYSTEM, ANSWER), "system turn at position 2"),
        ((ASK, ANSWER, MORE), "the last turn is user; expected assistant"),
    ],
)
def test_turns_out_of_order_are_refused(messages, says):
    with pytest.raises(DataError, match=r"^row 7: .*" + says):
        Dialogue(messages, id="row 7")


def test_a_prompt_ends_with_the_user():
    with pytest.raises(DataError, match="the last turn is assistant; expected user"):
        Prompt((ASK, ANSWER))


def test_a_prompt_of_an_unknown_tag_is_refused():
    with pytest.raises(DataError, match="tag 'evil'; expected one of helpful, adversarial, borderline"):
        Prompt((ASK,), tag="evil")


def test_only_adversarial_prompts_are_safety_prompts():
    assert [Prompt((ASK,), tag=tag).is_safety for tag in ("helpful", "adversarial", "borderline")] == [False, True, False]


def test_messages_survive_json():
    messages = (SYSTEM, ASK, Message("assistant", "Mix.", (5, 6, 2)))
    rows = messages_to_json(messages)
    assert rows[2] == {"role": "assistant", "content": "Mix.", "token_ids": [5, 6, 2]}
    assert messages_from_json(rows, "x") == messages


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("hello", "messages are str; expected a list of objects"),
        (["hello"], "messages are list; expected a list of objects"),
        ([{"role": "user"}], r"turn 1 lacks a text role or content \(found keys \['role'\]\)"),
        ([{"from": "human", "value": "x"}], r"found keys \['from', 'value'\]"),
        ([{"role": "wizard", "content": "x"}], "unknown role 'wizard' in turn 1"),
        ([{"role": "user", "content": "x", "token_ids": "12"}], "turn 1 has token_ids '12'; expected a list of whole numbers"),
        ([{"role": "user", "content": "x", "token_ids": [1.5]}], r"turn 1 has token_ids \[1.5\]"),
    ],
)
def test_malformed_messages_name_the_place(rows, says):
    with pytest.raises(DataError, match=r"^f.jsonl line 3: .*" + says):
        messages_from_json(rows, "f.jsonl line 3")


def test_an_answer_that_was_cut_off_loses_the_end_of_turn_and_what_the_template_writes_after_it(chatml_tokenizer):
    whole = render_dialogue(chatml_tokenizer, Dialogue((Message("user", "Hi"), Message("assistant", "Mix oats"))))
    cut = without_end(whole)
    assert chatml_tokenizer.decode(cut.ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nMix oats"
    assert sum(cut.response_mask) == sum(whole.response_mask) - 1
