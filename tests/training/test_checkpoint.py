import pytest
import torch

from chatwright.errors import ArtifactError
from chatwright.training.checkpoint import load_checkpoint, save_checkpoint


def the_file(folder):
    (path,) = folder.glob("checkpoint-*.pt")
    return path


def test_a_checkpoint_comes_back_with_its_step(tmp_path):
    save_checkpoint(tmp_path, 7, {"weights": {"a": torch.tensor([1.5])}, "best": float("-inf"), "samples": [{"step": 1}]})
    state = load_checkpoint(tmp_path)
    assert state["step"] == 7
    assert torch.equal(state["weights"]["a"], torch.tensor([1.5]))
    assert (state["best"], state["samples"]) == (float("-inf"), [{"step": 1}])


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert load_checkpoint(tmp_path) is None


def test_only_the_last_checkpoint_stays(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, {})
    assert the_file(tmp_path).name.startswith("checkpoint-00000010-")


def test_killed_before_the_earlier_one_was_dropped_the_later_one_counts(tmp_path):
    save_checkpoint(tmp_path, 1, {})
    earlier = the_file(tmp_path)
    content = earlier.read_bytes()
    save_checkpoint(tmp_path, 2, {})
    earlier.write_bytes(content)
    assert load_checkpoint(tmp_path)["step"] == 2


def test_killed_while_writing_the_earlier_one_counts(tmp_path):
    save_checkpoint(tmp_path, 1, {"weights": torch.arange(100)})
    path = the_file(tmp_path)
    path.with_name("checkpoint-00000002-0123456789abcdef.pt.tmp").write_bytes(path.read_bytes()[:100])
    assert load_checkpoint(tmp_path)["step"] == 1


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: content[:50] + b"x" + content[51:], lambda content: b""])
def test_a_truncated_or_changed_checkpoint_is_an_error_that_says_what_to_do(tmp_path, damage):
    save_checkpoint(tmp_path, 3, {"weights": torch.arange(100)})
    the_file(tmp_path).write_bytes(damage(the_file(tmp_path).read_bytes()))
    with pytest.raises(ArtifactError, match=r"damaged .*; delete it and run the same command"):
        load_checkpoint(tmp_path)
