"""Our export trains TRL's own RewardTrainer, margin included, and reads back as it was."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from chatwright.dialogue import Dialogue, Message, render_dialogue
from chatwright.errors import DataError, StorageError
from chatwright.export import to_trl, write_trl
from chatwright.preference import Answer, Comparison, Grade
from chatwright.sources import read_comparisons

SMALL = {Grade.SIGNIFICANTLY: 1.0, Grade.BETTER: 2 / 3, Grade.SLIGHTLY: 1 / 3, Grade.NEGLIGIBLY: 0.0}  # Llama 2, Table 27


def pair(name: str, choice: str, grade: Grade | None, **fields) -> Comparison:
    prompt = (Message("user", "How do I bake bread?"), Message("assistant", "Which?"), Message("user", f"{name}, with söy"))
    return Comparison(
        name, "helpfulness", prompt, Answer("Mix flour and water.", "a"), Answer("I like bread.\n", "b"), choice, grade, **fields
    )


PAIRS = [
    pair("rye", "left", Grade.SIGNIFICANTLY),
    pair("oat", "right", Grade.BETTER),
    pair("corn", "left", Grade.SLIGHTLY),
    pair("rice", "right", Grade.NEGLIGIBLY),
]


def test_a_row_holds_messages_the_grade_and_its_margin():
    prompt = [
        {"role": "user", "content": "How do I bake bread?"},
        {"role": "assistant", "content": "Which?"},
        {"role": "user", "content": "oat, with söy"},
    ]
    assert to_trl(PAIRS, SMALL)[1] == {
        "id": "oat",
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": "I like bread.\n"}],
        "rejected": [{"role": "assistant", "content": "Mix flour and water."}],
        "grade": "better",
        "tag": "helpful",
        "chosen_safe": None,
        "rejected_safe": None,
        "margin": 2 / 3,
    }


def test_without_margins_there_is_no_margin_column():
    assert all("margin" not in row for row in to_trl(PAIRS, None))


def test_margins_are_found_by_grade_name_too():
    assert to_trl(PAIRS, {"significantly": 3, "better": 2, "slightly": 1, "negligibly": 0})[2]["margin"] == 1.0


def test_a_margin_without_a_grade_is_an_error():
    with pytest.raises(DataError, match="plum: found no grade; expected one of"):
        to_trl([pair("plum", "left", None)], SMALL)
    with pytest.raises(DataError, match="oat: found grade 'better'"):
        to_trl(PAIRS, {Grade.SIGNIFICANTLY: 1.0, Grade.SLIGHTLY: 0.5})


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
@pytest.mark.parametrize("margins", [SMALL, None])
def test_the_export_reads_back_as_it_was(tmp_path, name, margins):
    assert write_trl(tmp_path / name, PAIRS, margins) == 4
    back = read_comparisons(tmp_path / name, task="helpfulness")
    assert [c.id for c in back] == ["rye", "oat", "corn", "rice"]
    assert [c.prompt for c in back] == [c.prompt for c in PAIRS]
    assert [c.chosen.text for c in back] == ["Mix flour and water.", "I like bread.\n", "Mix flour and water.", "I like bread.\n"]
    assert [c.rejected.text for c in back] == ["I like bread.\n", "Mix flour and water.", "I like bread.\n", "Mix flour and water."]
    assert [c.grade for c in back] == [Grade.SIGNIFICANTLY, Grade.BETTER, Grade.SLIGHTLY, Grade.NEGLIGIBLY]
    assert sorted(file.name for file in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", ["safety.jsonl", "safety.parquet"])
def test_safety_labels_and_tag_survive_the_export(tmp_path, name):
    prompt = (Message("user", "How do I poison soup?"),)
    pairs = [
        Comparison("a", "safety", prompt, Answer("Take…", safe=False), Answer("No.", safe=True), "right", None, "adversarial"),
        Comparison("b", "safety", prompt, Answer("No!", safe=True), Answer("I won't.", safe=True), "left", None, "borderline"),
    ]
    write_trl(tmp_path / name, pairs, None)
    back = read_comparisons(tmp_path / name, task="safety")
    assert [c.safety_bin for c in back] == ["chosen safe", "both safe"]
    assert [c.tag for c in back] == ["adversarial", "borderline"]
    assert [c.grade for c in back] == [None, None]


def test_another_suffix_and_no_comparisons_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"suffix '\.csv'; expected \.jsonl or \.parquet"):
        write_trl(tmp_path / "pairs.csv", PAIRS, None)
    with pytest.raises(DataError, match="no comparisons to export"):
        write_trl(tmp_path / "pairs.jsonl", [], None)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_parquet_behind(tmp_path, monkeypatch):
    def full(table, where):
        where.write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(StorageError, match=r"pairs\.parquet: could not be written \(No space left on device\)"):
        write_trl(tmp_path / "pairs.parquet", PAIRS, None)
    assert list(tmp_path.iterdir()) == []


def reward_model(path):
    """A reward model of the tiny policy's weights whose scores differ by about one."""
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    torch.nn.init.normal_(model.score.weight, std=1.0)
    return model.eval()


def score(model, tokenizer, prompt, text) -> float:
    ids = render_dialogue(tokenizer, Dialogue((*prompt, Message("assistant", text)))).ids
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits.item()


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # TRL sets it by its old name
@pytest.mark.parametrize(
    ("margins", "margin_of_pair"),
    [
        (None, [0, 0, 0, 0]),
        (SMALL, [1, 2 / 3, 1 / 3, 0]),
        ({"significantly": 3, "better": 2, "slightly": 1, "negligibly": 0}, [3, 2, 1, 0]),
    ],
)
def test_trl_trains_one_step_on_the_export_and_subtracts_the_margin(tmp_path, tiny_policy_path, margins, margin_of_pair):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    write_trl(tmp_path / "pairs.jsonl", PAIRS, margins)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy_path)
    model = reward_model(tiny_policy_path)
    differences = [score(model, tokenizer, c.prompt, c.chosen.text) - score(model, tokenizer, c.prompt, c.rejected.text) for c in PAIRS]
    assert min(abs(d) for d in differences) > 0.01
    expected = sum(math.log(1 + math.exp(-(d - m))) for d, m in zip(differences, margin_of_pair, strict=True)) / 4
    before = model.score.weight.detach().clone()

    settings = RewardConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = RewardTrainer(model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()

    assert trainer.state.global_step == 1
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=2e-4)  # TRL logs a rounded loss
    assert not torch.equal(before, model.score.weight.detach())
