"""Every format people have, read from small files in the same schema; every malformed row names file and line."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import resource

import pyarrow
import pytest
from datasets import Dataset
from pyarrow.parquet import write_table

from chatwright.dialogue import Dialogue, Message, Prompt
from chatwright.errors import DataError, StorageError
from chatwright.preference import Answer, Comparison, Grade, comparison_to_json
from chatwright.sources import dialogue_to_json, prompt_to_json, read_comparisons, read_dialogues, read_prompts, write_jsonl

SMALL = {Grade.SIGNIFICANTLY: 1.0, Grade.BETTER: 2 / 3, Grade.SLIGHTLY: 1 / 3, Grade.NEGLIGIBLY: 0.0}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    """Write rows to data.jsonl and return its path."""
    return lambda *rows: jsonl(tmp_path / "data.jsonl", *rows)


def talk(*texts):
    """Messages by turns, the user first."""
    return tuple(Message("assistant" if n % 2 else "user", text) for n, text in enumerate(texts))


# --- Dialogues


def test_messages_are_read_with_id_and_source_from_the_file(file):
    assert read_dialogues(file({"messages": [user("hi"), assistant("yo")]})) == [Dialogue(talk("hi", "yo"), "data:1", "data")]


def test_given_ids_and_sources_are_kept(file):
    path = file({"messages": [user("hi"), assistant("yo")], "id": 17, "source": "ann"})
    assert read_dialogues(path) == [Dialogue(talk("hi", "yo"), "17", "ann")]


def test_prompt_and_completion_may_be_texts_or_messages(file):
    path = file(
        {"prompt": "hi", "completion": "yo"},
        {"prompt": [user("hi")], "completion": [assistant("yo")]},
        {"prompt": [user("a"), assistant("b"), user("c")], "completion": [assistant("d")]},
        {"prompt": [{"role": "system", "content": "s"}, user("a")], "completion": "b"},
    )
    assert [d.messages for d in read_dialogues(path)] == [
        talk("hi", "yo"),
        talk("hi", "yo"),
        talk("a", "b", "c", "d"),
        (Message("system", "s"), *talk("a", "b")),
    ]


def test_a_dialogue_survives_its_row(tmp_path):
    dialogue = Dialogue((*talk("hi"), Message("assistant", "yo", (4, 5, 2))), "x", "y")
    write_jsonl(tmp_path / "d.jsonl", [dialogue_to_json(dialogue)])
    assert read_dialogues(tmp_path / "d.jsonl") == [dialogue]


TREE = {
    "message_tree_id": "t1",
    "prompt": {
        "role": "prompter",
        "text": "How do I cook rice?",
        "replies": [
            {"role": "assistant", "text": "second", "rank": 2, "replies": []},
            {"role": "assistant", "text": "deleted", "rank": 0, "deleted": True, "replies": []},
            {
                "role": "assistant",
                "text": "best",
                "rank": 1,
                "replies": [
                    {"role": "prompter", "text": "thanks", "rank": None, "replies": []},
                    {
                        "role": "prompter",
                        "text": "And lentils?",
                        "rank": None,
                        "replies": [
                            {"role": "assistant", "text": "unranked", "rank": None, "replies": []},
                            {"role": "assistant", "text": "ranked last", "rank": 7, "replies": [{"role": "prompter", "text": "ok"}]},
                        ],
                    },
                ],
            },
        ],
    },
}
BEST_PATH = talk("How do I cook rice?", "best", "And lentils?", "ranked last")


def flat(name, parent, role, text, **fields):
    return {"message_id": name, "parent_id": parent, "message_tree_id": "t1", "role": role, "text": text, **fields}


FLAT = [
    flat("t1", None, "prompter", "How do I cook rice?"),
    flat("a", "t1", "assistant", "second", rank=2),
    flat("x", "t1", "assistant", "deleted", rank=0, deleted=True),
    flat("e", "c", "assistant", "unranked"),  # a child may come before its parent
    flat("b", "t1", "assistant", "best", rank=1),
    flat("d", "b", "prompter", "thanks"),
    flat("c", "b", "prompter", "And lentils?"),
    flat("f", "c", "assistant", "ranked last", rank=7),
    flat("g", "f", "prompter", "ok"),
]


def test_an_oasst_tree_gives_its_best_ranked_path(file):
    assert read_dialogues(file(TREE)) == [Dialogue(BEST_PATH, "t1", "data")]


def test_oasst_message_rows_give_the_same_path_as_their_tree(file):
    assert read_dialogues(file(*FLAT)) == [Dialogue(BEST_PATH, "t1", "data")]


def test_limit_counts_trees_not_messages(file):
    second = [{**row, "message_id": f"2{row['message_id']}", "message_tree_id": "t2"} for row in FLAT[:2]]
    second[1]["parent_id"] = "2t1"
    path = file(*FLAT, *second)
    assert [d.id for d in read_dialogues(path)] == ["t1", "t2"]
    assert [d.id for d in read_dialogues(path, limit=1)] == ["t1"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([FLAT[0]], "line 1: found a tree without an answer"),
        ([FLAT[0], flat("a", "gone", "assistant", "x")], "line 2: found parent_id 'gone' of no message here"),
        ([FLAT[0], FLAT[1], FLAT[1]], "line 3: found message_id 'a' again, first at data.jsonl line 2"),
        ([FLAT[0], flat("a", "t1", "wizard", "x")], "line 1: found role 'wizard' in the tree; expected one of prompter, assistant"),
        ([FLAT[0], flat("a", "t1", "assistant", None)], "line 2: found text None; expected a text that is not empty"),
        ([FLAT[0], {"messages": []}], "line 2: found message_id None"),
        ([{"prompt": {"role": "prompter", "text": "a", "replies": []}}], "line 1: found a tree without an answer"),
    ],
)
def test_a_broken_oasst_tree_names_its_row(file, rows, says):
    with pytest.raises(DataError, match=rf"^data\.jsonl {says}"):
        read_dialogues(file(*rows))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"question": "a", "answer": "b"},
            r"found columns answer, question; expected those of one format \(messages: .*oasst tree: .*rename",
        ),
        ({"messages": None, "prompt": "a"}, "found columns prompt; expected"),
        ({}, "found columns none; expected"),
        ({"messages": [user("a")]}, "found user as the last turn; expected assistant"),
        ({"messages": [user("a"), user("b")]}, "turn 2 is user; expected assistant"),
        ({"messages": "a"}, "messages are str; expected a list"),
        ({"messages": []}, "no messages"),
        ({"messages": [{"role": "tool", "content": "a"}, assistant("b")]}, "unknown role 'tool'"),
        ({"prompt": "a", "completion": ""}, "found completion '' and prompt 'a'; expected texts or lists"),
        ({"prompt": "a", "completion": 3}, "found completion 3 and prompt 'a'; expected texts or lists"),
        ({"prompt": 3, "completion": "a"}, "found completion 'a' and prompt 3; expected texts or lists"),
        ({"prompt": " ", "completion": "a"}, "empty user turn 1"),
        ({"prompt": "a", "completion": ["b"]}, "messages are list; expected a list of objects"),
        ({"messages": [user("a"), assistant("b")], "id": [1]}, r"found id \[1\]; expected a text or a number"),
        ({"messages": [user("a"), assistant("b")], "source": 1}, "found source 1; expected a text"),
    ],
)
def test_a_malformed_dialogue_names_file_and_line(file, row, says):
    with pytest.raises(DataError, match=rf"^data\.jsonl line 2: {says}"):
        read_dialogues(file({"prompt": "a", "completion": "b"}, row))


# --- Comparisons


def only(path, task="helpfulness", **options) -> Comparison:
    (comparison,) = read_comparisons(path, task=task, **options)
    return comparison


def test_the_house_format_is_read_as_it_was_written(file):
    comparison = Comparison(
        "c", "safety", talk("q"), Answer("a", "m", 0.5, 3, True), Answer("b"), "right", Grade.BETTER, "borderline", "ann"
    )
    assert only(file(comparison_to_json(comparison)), "safety") == comparison


def test_a_row_in_the_house_format_keeps_its_own_task(file):
    path = file(comparison_to_json(Comparison("c", "safety", talk("q"), Answer("a"), Answer("b"), "right")))
    assert only(path, "helpfulness").task == "safety"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [user("q")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"prompt": [user("q")], "chosen": "good", "rejected": "bad"},
        {"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]},
        {"prompt": None, "chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]},
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "prompt_id": "0f", "messages": [], "score_chosen": 8.5, "score_rejected": 8.5}
        | {"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]},
    ],
    ids=["texts", "messages", "mixed", "implicit", "implicit-parquet", "hh-rlhf", "hh-rlhf-split", "ultrafeedback"],
)
def test_chosen_and_rejected_are_read_in_every_shape(file, row):
    assert only(file(row)) == Comparison("data:1", "helpfulness", talk("q"), Answer("good"), Answer("bad"), "left")


def test_hh_transcripts_of_several_turns_share_their_prompt(file):
    start = "\n\nHuman: What's for dinner?\n\nAssistant: Soup.\n\nor bread.\n\nHuman: How: exactly?\n\nAssistant:"
    comparison = only(file({"chosen": f"{start} Boil it.", "rejected": f"{start} No."}), "safety")
    assert comparison.prompt == talk("What's for dinner?", "Soup.\n\nor bread.", "How: exactly?")
    assert (comparison.chosen.text, comparison.rejected.text, comparison.tag) == ("Boil it.", "No.", "adversarial")


def test_a_grade_is_read_and_a_missing_one_stays_none(file):
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    grades = [c.grade for c in read_comparisons(file(row | {"grade": "slightly"}, row, row | {"grade": None}), task="helpfulness")]
    assert grades == [Grade.SLIGHTLY, None, None]


def test_a_margin_becomes_a_grade_through_the_scale_given(file):
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    path = file(*(row | {"margin": m} for m in (1, 0.6667, 1 / 3, 0.0)))
    assert [c.grade for c in read_comparisons(path, task="helpfulness", margins=SMALL)] == list(Grade)


@pytest.mark.parametrize(
    ("row", "margins", "says"),
    [
        ({"margin": 0.5}, None, "found margin 0.5 but no grade; expected grade"),
        ({"margin": 0.5}, SMALL, r"found margin 0.5; expected that of one grade \(significantly 1, better 0.666667"),
        ({"margin": "big"}, SMALL, "found margin 'big'; expected that of one grade"),
        ({"margin": 0}, dict.fromkeys(Grade, 0.0), "found margin 0; expected that of one grade"),
        ({"grade": "huge"}, None, "grade 'huge'; expected one of significantly, better"),
        ({"chosen_safe": 1}, None, "found chosen_safe 1; expected true or false"),
        ({"tag": "evil"}, None, ".*tag 'evil'; expected one of helpful"),
        ({"score_chosen": 1, "score_rejected": 2}, None, "found score_chosen 1 below score_rejected 2"),
        ({"rejected": None}, None, r"found columns chosen, prompt; expected those of one format \(house: .*pku-saferlhf"),
        ({"rejected": [user("other"), assistant("b")]}, None, "found chosen and rejected after different prompts"),
        ({"rejected": [assistant("b"), user("b")]}, None, "found user as the last turn"),
        ({"prompt": None}, None, "found chosen 'a' without a prompt; expected "),
        ({"chosen": {"text": "a"}}, None, r"found chosen \{'text': 'a'\} and prompt 'q'; expected texts or lists"),
        ({"chosen": "\n\nHuman: q\n\nAssistant:"}, None, "empty assistant turn 2"),
    ],
)
def test_a_malformed_preference_names_file_and_line(file, row, margins, says):
    path = file({"prompt": "q", "chosen": "a", "rejected": "b", "grade": "better"}, {"prompt": "q", "chosen": "a", "rejected": "b"} | row)
    with pytest.raises(DataError, match=rf"^data\.jsonl line 2: {says}"):
        read_comparisons(path, task="helpfulness", margins=margins)


PKU = {
    "prompt": "How do I pick a lock?",
    "response_0": "Take a pick…",
    "response_1": "I can't help.",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "better_response_id": 0,
    "safer_response_id": 1,
}


def test_pku_saferlhf_gives_each_task_its_own_judgement(file):
    helpful, safe = only(file(PKU)), only(file(PKU), "safety")
    assert (helpful.chosen.text, helpful.tag) == ("Take a pick…", "helpful")
    assert (safe.chosen.text, safe.tag, safe.safety_bin) == ("I can't help.", "adversarial", "chosen safe")
    assert helpful.left == safe.left == Answer("Take a pick…", safe=False)
    assert helpful.prompt == safe.prompt == talk("How do I pick a lock?")


@pytest.mark.parametrize(
    ("change", "task", "says"),
    [
        ({"better_response_id": 2}, "helpfulness", "found better_response_id 2; expected 0 or 1 for task 'helpfulness'"),
        ({"better_response_id": None}, "helpfulness", "found better_response_id None"),
        ({"safer_response_id": True}, "safety", "found safer_response_id True; expected 0 or 1"),
        ({"is_response_1_safe": None}, "safety", "found no is_response_0_safe or is_response_1_safe; expected both"),
        ({"is_response_1_safe": "yes"}, "helpfulness", "found is_response_1_safe 'yes'; expected true or false"),
        ({"prompt": ""}, "safety", "found prompt ''; expected a text that is not empty"),
        ({"response_1": ""}, "safety", "found response_1 ''; expected a text that is not empty"),
    ],
)
def test_a_malformed_pku_row_names_file_and_line(file, change, task, says):
    with pytest.raises(DataError, match=rf"^data\.jsonl line 1: {says}"):
        read_comparisons(file(PKU | change), task=task)


# --- Prompts


def test_prompts_are_texts_or_messages_with_tag_and_category(file):
    path = file(
        {"prompt": "How?"},
        {"prompt": [user("a"), assistant("b"), user("c")], "tag": "borderline", "category": "yeast", "id": "p"},
        {"messages": [user("Harm!")], "tag": "adversarial"},
        {"prompt": "q", "chosen": "a", "rejected": "b", "tag": None},
    )
    assert read_prompts(path) == [
        Prompt(talk("How?"), "data:1"),
        Prompt(talk("a", "b", "c"), "p", "borderline", "yeast"),
        Prompt(talk("Harm!"), "data:3", "adversarial"),
        Prompt(talk("q"), "data:4"),
    ]


def test_a_prompt_survives_its_row(tmp_path):
    prompt = Prompt(talk("a", "b", "c"), "p", "borderline", "yeast")
    write_jsonl(tmp_path / "p.jsonl", [prompt_to_json(prompt)])
    assert read_prompts(tmp_path / "p.jsonl") == [prompt]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "a"}, r"found columns text; expected those of one format \(messages: messages \(ends with a user turn\); prompt: "),
        ({"prompt": " "}, "found prompt ' '; expected a text that is not empty"),
        ({"messages": [user("a"), assistant("b")]}, "found assistant as the last turn; expected user"),
        ({"prompt": "a", "tag": "evil"}, ".*tag 'evil'"),
        ({"prompt": "a", "category": 5}, "found category 5; expected a text"),
    ],
)
def test_a_malformed_prompt_names_file_and_line(file, row, says):
    with pytest.raises(DataError, match=rf"^data\.jsonl line 1: {says}"):
        read_prompts(file(row))


# --- Files, folders, the hub


def test_json_parquet_and_gzip_hold_the_same_rows(tmp_path):
    rows = [{"prompt": "a", "id": "1"}, {"prompt": "b", "id": "2", "tag": "borderline"}]
    expected = [Prompt(talk("a"), "1"), Prompt(talk("b"), "2", "borderline")]
    (tmp_path / "list.json").write_text("\ufeff " + json.dumps(rows, indent=1), encoding="utf-8")
    jsonl(tmp_path / "lines.json", *rows)
    (tmp_path / "blank.jsonl").write_text("\n" + "\r\n\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt", encoding="utf-8") as packed:
        packed.write("\n".join(map(json.dumps, rows)))
    write_table(pyarrow.Table.from_pylist([{"tag": None} | row for row in rows]), tmp_path / "table.parquet")
    for name in ("list.json", "lines.json", "blank.jsonl", "packed.jsonl.gz", "table.parquet"):
        assert read_prompts(tmp_path / name) == expected, name


def test_default_ids_are_the_stem_and_the_line(tmp_path):
    with gzip.open(tmp_path / "asks.jsonl.gz", "wt") as packed:
        packed.write('{"prompt": "a"}\n\n{"prompt": "b"}\n')
    assert [p.id for p in read_prompts(tmp_path / "asks.jsonl.gz")] == ["asks:1", "asks:3"]


def test_nested_messages_are_read_from_parquet(tmp_path):
    rows = [{"messages": [user("a"), assistant("b")]}, {"messages": [user("c"), assistant("d")]}]
    write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert [d.messages for d in read_dialogues(str(tmp_path / "t.parquet"))] == [talk("a", "b"), talk("c", "d")]
    with pytest.raises(DataError, match=r"^t\.parquet row 1: found columns messages"):
        read_comparisons(tmp_path / "t.parquet", task="safety")


def test_a_folder_is_read_by_kind_or_by_split(tmp_path):
    jsonl(tmp_path / "prompts.jsonl", {"prompt": "kind"})
    (tmp_path / "data").mkdir()
    for shard in (1, 0):
        write_table(pyarrow.Table.from_pylist([{"prompt": f"test {shard}"}]), tmp_path / "data" / f"test-0000{shard}-of-00002.parquet")
    assert [p.messages for p in read_prompts(tmp_path)] == [talk("kind")]
    assert [p.messages for p in read_prompts(tmp_path, split="test")] == [talk("test 0"), talk("test 1")]
    with pytest.raises(DataError, match=r"found data, prompts\.jsonl; expected dialogues\.jsonl or files named train"):
        read_dialogues(tmp_path)


def test_limit_stops_before_rows_behind_it(file):
    path = file({"prompt": "a"}, {"prompt": "b"}, {"broken": 1})
    assert len(read_prompts(path, limit=2)) == 2
    with pytest.raises(DataError, match="limit is 0; expected at least 1"):
        read_prompts(path, limit=0)


def test_a_split_of_a_single_file_is_an_error(file):
    with pytest.raises(DataError, match="split 'test' of a single file; a file has no splits"):
        read_prompts(file({"prompt": "a"}), split="test")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"prompt": "a"}\n{"prompt": "b"\n', "data.jsonl line 2: found malformed JSON"),
        (b'{"prompt": "a"}\n["b"]\n', "data.jsonl line 2: found list; expected a JSON object"),
        (b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n', "data.jsonl line 2: found bytes that are not UTF-8"),
        (b'{"prompt": "a"}\n{"prompt": "\\ud83d"}\n', "data.jsonl line 2: found half of a character"),
        (b'{"prompt": "a"}\n{"prompt": "b"}{"prompt": "c"}\n', "data.jsonl line 2: found malformed JSON"),
        (b"", "data.jsonl: found no rows; expected at least one"),
        (b"\n \n", "data.jsonl: found no rows; expected at least one"),
    ],
)
def test_a_file_that_is_not_json_lines_names_the_line(tmp_path, content, says):
    (tmp_path / "data.jsonl").write_bytes(content)
    with pytest.raises(DataError, match="^" + re.escape(says)):
        read_prompts(tmp_path / "data.jsonl")


def test_an_empty_list_and_an_empty_table_are_errors(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    for name in ("a.json", "a.parquet"):
        with pytest.raises(DataError, match=f"^{name}: found no rows"):
            read_prompts(tmp_path / name)


def test_a_damaged_parquet_or_gzip_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 100)[:-12])
    whole = bytearray(gzip.compress(b'{"prompt": "a"}\n'))
    whole[10] = 0xFF
    (tmp_path / "b.jsonl.gz").write_bytes(whole)
    for name in ("a.parquet", "a.jsonl.gz", "b.jsonl.gz"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read"):
            read_prompts(tmp_path / name)


def test_a_file_of_another_kind_lists_the_kinds(tmp_path):
    (tmp_path / "a.csv").write_text("prompt\na\n")
    with pytest.raises(DataError, match=r"a\.csv: found a file of another kind; expected one of \.jsonl, \.jsonl\.gz, \.json, \.parquet"):
        read_prompts(tmp_path / "a.csv")


def test_a_duplicate_id_names_both_rows(file):
    path = file({"prompt": "a", "id": "x"}, {"prompt": "b"}, {"prompt": "c", "id": "x"})
    with pytest.raises(DataError, match=r"^data\.jsonl line 3: found id 'x' again, first at data\.jsonl line 1; expected unique ids"):
        read_prompts(path)


def test_malformed_rows_may_be_left_out_but_not_in_silence(file, caplog):
    path = file({"prompt": "a"}, {"prompt": ""}, {"oops": 1}, {"prompt": "b"})
    with caplog.at_level(logging.WARNING):
        assert [p.id for p in read_prompts(path, skip_malformed=True)] == ["data:1", "data:4"]
    assert "2 of 4 rows were malformed and left out; the first: data.jsonl line 2: found prompt ''" in caplog.text


def test_nothing_but_malformed_rows_is_an_error_all_the_same(file):
    with pytest.raises(DataError, match=r"every row was malformed; the first: data\.jsonl line 1"):
        read_prompts(file({"oops": 1}), skip_malformed=True)


@pytest.mark.parametrize("source", ["nowhere/asks.jsonl", "nowhere", "/no/such/folder"])
def test_a_missing_file_says_what_a_source_may_be(source):
    with pytest.raises(DataError, match=rf"^{source}: no such file or folder; expected a path to .*, or a hub data set as org/name"):
        read_prompts(source)


def test_a_hub_data_set_out_of_reach_says_what_to_do():
    with pytest.raises(DataError, match=r"^no-such-org/no-such-set: .*split 'train'.*not available.*go online, or download the data set"):
        read_prompts("no-such-org/no-such-set")


def test_a_hub_data_set_is_loaded_with_its_config_and_split(monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return Dataset.from_list([{"prompt": "a", "tag": None}, {"prompt": "b", "tag": "borderline"}, {"prompt": "", "tag": None}])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    prompts = read_prompts("org/asks:hard", split="test", limit=2)
    assert prompts == [Prompt(talk("a"), "org/asks:hard:1"), Prompt(talk("b"), "org/asks:hard:2", "borderline")]
    assert asked == [(("org/asks", "hard"), {"split": "test"})]
    with pytest.raises(DataError, match=r"^org/asks row 3: found prompt ''"):
        read_prompts("org/asks")


def test_an_empty_hub_split_is_an_error(monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **options: Dataset.from_list([]))
    with pytest.raises(DataError, match=r"^org/asks: found no rows in split 'train'"):
        read_prompts("org/asks")


# --- Writing


def test_rows_are_written_as_utf_8_lines_and_counted(tmp_path):
    assert write_jsonl(tmp_path / "new" / "a.jsonl", iter([{"a": "sö\n"}, {"b": 1}])) == 2
    assert (tmp_path / "new" / "a.jsonl").read_bytes() == '{"a": "sö\\n"}\n{"b": 1}\n'.encode()


def test_a_full_disk_leaves_the_older_file_and_nothing_half_written(tmp_path, monkeypatch):
    jsonl(tmp_path / "a.jsonl", {"old": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"a\.jsonl: could not be written \(No space left on device\); expected room"):
        write_jsonl(tmp_path / "a.jsonl", [{"new": 2}])
    assert [f.name for f in tmp_path.iterdir()] == ["a.jsonl"]
    assert (tmp_path / "a.jsonl").read_text() == '{"old": 1}\n'


def test_a_write_that_stops_half_way_leaves_the_older_file(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"old": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a real refusal by the system, after 100 kB
    try:
        with pytest.raises(StorageError, match=r"a\.jsonl: could not be written \(File too large\)"):
            write_jsonl(tmp_path / "a.jsonl", [{"new": "x" * 1000}] * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [f.name for f in tmp_path.iterdir()] == ["a.jsonl"]
    assert (tmp_path / "a.jsonl").read_text() == '{"old": 1}\n'


def test_a_row_that_cannot_be_written_leaves_the_older_file(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(tmp_path / "a.jsonl", [{"new": 2}, {"new": float("nan")}])
    assert [f.name for f in tmp_path.iterdir()] == ["a.jsonl"]
    assert (tmp_path / "a.jsonl").read_text() == '{"old": 1}\n'


def test_a_place_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        write_jsonl(tmp_path / "taken" / "a.jsonl", [{"a": 1}])
