import json
import logging
import sys

import numpy as np
import pytest
import torch

from chatwright.errors import DataError, SettingsError
from chatwright.training import metrics
from chatwright.training.metrics import MetricsLog, read_metrics


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stage" / "metrics.jsonl"


@pytest.fixture
def clock(monkeypatch):
    """A clock the test moves: clock[0] is now, in seconds."""
    now = [100.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    return now


def test_each_row_is_one_json_line_with_step_phase_and_seconds(path, clock):
    with MetricsLog(path) as log:
        clock[0] = 101.5
        log.log(1, loss=2.5, learning_rate=1e-3)
        clock[0] = 104.0
        log.log(1, "validation", loss=2.0, kept=True)
        assert path.read_text() == (
            '{"step": 1, "phase": "train", "seconds": 1.5, "loss": 2.5, "learning_rate": 0.001}\n'
            '{"step": 1, "phase": "validation", "seconds": 4.0, "loss": 2.0, "kept": true}\n'
        )


def test_scalars_of_torch_and_numpy_become_numbers(path):
    with MetricsLog(path) as log:
        log.log(1, a=torch.tensor(0.5), b=np.float32(0.25), c=np.int64(3), by_grade={"better": torch.tensor(1.0)})
    (row,) = read_metrics(path)
    assert (row["a"], row["b"], row["c"], row["by_grade"]) == (0.5, 0.25, 3, {"better": 1.0})


def test_a_number_that_is_not_finite_is_written_as_null_with_a_warning(path, caplog):
    with caplog.at_level(logging.WARNING), MetricsLog(path) as log:
        log.log(7, loss=float("nan"), kl=torch.tensor(float("inf")), by_grade={"slightly": float("-inf")}, reward=1.0)
    row = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert (row["loss"], row["kl"], row["by_grade"], row["reward"]) == (None, None, {"slightly": None}, 1.0)
    assert "metrics.jsonl step 7 (train): loss, kl, by_grade.slightly not finite" in caplog.text


def test_resuming_drops_the_rows_beyond_the_checkpoint_and_goes_on(path):
    with MetricsLog(path) as log:
        for step in (1, 2, 3):
            log.log(step, loss=float(step))
        log.log(3, "validation", loss=9.0)
    with MetricsLog(path) as log:
        log.truncate_after(2)
        log.log(3, loss=30.0)
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


def test_seconds_go_on_where_the_killed_attempt_stopped(path, clock):
    with MetricsLog(path) as log:
        clock[0] = 160.0
        log.log(1, loss=1.0)
    clock[0] = 5000.0
    with MetricsLog(path) as log:
        clock[0] = 5002.0
        log.log(2, loss=1.0)
    assert [row["seconds"] for row in read_metrics(path)] == [60.0, 62.0]


def test_a_line_that_a_kill_tore_is_dropped(path):
    with MetricsLog(path) as log:
        log.log(1, loss=1.0)
    with path.open("a") as file:
        file.write('{"step": 2, "pha')
    assert [row["step"] for row in read_metrics(path)] == [1]
    with MetricsLog(path) as log:
        log.log(2, loss=2.0)
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_a_damaged_line_is_named_by_its_number(path):
    path.parent.mkdir()
    path.write_text('{"step": 1, "phase": "train", "seconds": 0.1}\n{"loss": 1.0}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl line 2: .*expected an object with step, phase and seconds"):
        read_metrics(path)


def test_an_unknown_tracker_names_the_nearest(path):
    with pytest.raises(SettingsError, match=r"trackers holds 'tensorbord'; expected any of .*; did you mean 'tensorboard'\?"):
        MetricsLog(path, trackers=["tensorbord"])


def test_a_missing_package_names_the_extra_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SettingsError, match=r'tracker .wandb.: .*; install it with: pip install "chatwright\[wandb\]"'):
        MetricsLog(path, trackers=["wandb"])


def test_tensorboard_gets_every_finite_number_under_its_phase(path):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(path, trackers=["tensorboard"], run_name="quickstart", settings={"ppo": {"beta": 0.01}}) as log:
        log.log(1, reward=0.5, kl=float("nan"), note="text")
        log.log(2, reward=0.75)
        log.log(2, "validation", reward=0.25)
    events = EventAccumulator(str(path.parent / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["train/reward", "validation/reward"]
    assert [(e.step, e.value) for e in events.Scalars("train/reward")] == [(1, 0.5), (2, 0.75)]
    assert [(e.step, e.value) for e in events.Scalars("validation/reward")] == [(2, 0.25)]
    assert b'"beta": 0.01' in events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


def test_tensorboard_forgets_the_steps_that_a_resumed_stage_does_again(path):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(path, trackers=["tensorboard"]) as log:
        for step, loss in [(1, 4.0), (2, 3.0), (3, 2.0)]:
            log.log(step, loss=loss)
        log.truncate_after(1)
        log.log(2, loss=3.5)
    events = EventAccumulator(str(path.parent / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 4.0), (2, 3.5)]


def test_wandb_writes_an_offline_run_beside_the_metrics(path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is an extra")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with MetricsLog(path, trackers=["wandb"], run_name="quickstart", settings={"beta": 0.01}) as log:
        log.log(1, reward=0.5)
        log.log(1, "validation", reward=0.25)
    (run,) = (path.parent / "wandb").glob("offline-run-*/run-*.wandb")
    assert run.stat().st_size > 0


def test_mlflow_keeps_the_run_in_a_database_beside_the_metrics_and_goes_on_in_it(path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is an extra")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step, reward in [(1, 0.5), (2, 0.75)]:
        with MetricsLog(path, trackers=["mlflow"], run_name="quickstart", settings={"ppo": {"beta": 0.01}}) as log:
            log.log(step, reward=reward)
    client = MlflowClient(tracking_uri=f"sqlite:///{path.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("chatwright").experiment_id])
    assert (run.info.run_name, run.data.params) == ("quickstart", {"ppo.beta": "0.01"})
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/reward")] == [(1, 0.5), (2, 0.75)]
