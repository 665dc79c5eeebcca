"""Sealed folders: the same request is done once, another is refused by name, and no kill or full disk leaves half a file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict

import pytest
import torch

from chatwright import artifact
from chatwright.artifact import MANIFEST, WORK, Manifest, Request, Workspace, fingerprint, read_manifest, stage_folder, write_atomic
from chatwright.errors import ArtifactError, InputsChangedError, StorageError
from chatwright.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "hi"}\n')
    return path


@pytest.fixture
def request_of(data):
    """A request like any stage's; a keyword changes one part of it."""

    def make(**changes):
        parts = {"kind": "policy", "inputs": {"data": data}, "settings": {"sft": {"epochs": 2, "optimiser": {"lr": 0.1}}}, "seed": 0}
        return Request.of(**(parts | changes))

    return make


@pytest.fixture
def sealed(tmp_path, request_of):
    """A finished folder with two files."""
    return seal(tmp_path / "sft", request_of())


def seal(folder, request, content="weights", metrics="{}\n"):
    with stage_folder(folder, request) as space:
        assert isinstance(space, Workspace)
        (folder / "model.txt").write_text(content)
        (folder / "metrics.jsonl").write_text(metrics)
        (space.work / "checkpoint.pt").write_text("only to go on")
        space.seal(counts={"rows": 1}, metrics={"loss": 0.5})
    return folder


def begin(folder, request):
    """Work that stops before its end, something having been made."""
    with suppress(KeyboardInterrupt), stage_folder(folder, request) as space:
        (space.work / "checkpoint.pt").write_text("step 3")
        raise KeyboardInterrupt


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- The same work, and other work


def test_a_sealed_folder_holds_its_files_and_a_manifest_and_no_work(sealed):
    assert files(sealed) == ["manifest.json", "metrics.jsonl", "model.txt"]
    manifest = read_manifest(sealed, "policy")
    assert manifest.counts == {"rows": 1}
    assert manifest.metrics == {"loss": 0.5}
    assert manifest.settings == {"sft": {"epochs": 2, "optimiser": {"lr": 0.1}}}
    # printf weights | sha256sum
    assert manifest.files["model.txt"] == "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"


def test_the_same_request_again_finds_nothing_to_do(sealed, request_of):
    before = (sealed / MANIFEST).stat().st_mtime_ns
    with stage_folder(sealed, request_of()) as found:
        assert isinstance(found, Manifest)
        assert found == read_manifest(sealed)
    assert (sealed / MANIFEST).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 7}, "seed was 0, now 7"),
        ({"kind": "reward-safety"}, "kind is 'policy', asked for 'reward-safety'"),
        ({"settings": {"sft": {"epochs": 3, "optimiser": {"lr": 0.1}}}}, "setting sft.epochs was 2, now 3"),
        ({"settings": {"sft": {"epochs": 2, "optimiser": {"lr": 0.2}}}}, "setting sft.optimiser.lr was 0.1, now 0.2"),
        ({"settings": {"sft": {"epochs": 2}}}, "setting sft.optimiser was {'lr': 0.1}, now None"),
        ({"inputs": {}}, "is no longer used"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_work_is_refused_and_the_difference_named(tmp_path, request_of, changes, named, finished):
    folder = tmp_path / "out"
    (seal if finished else begin)(folder, request_of())
    before = files(folder)
    with pytest.raises(InputsChangedError) as refused, stage_folder(folder, request_of(**changes)):
        pass
    assert named in str(refused.value)
    assert ("is finished work" if finished else "holds unfinished work") in str(refused.value)
    assert "\n" not in str(refused.value)
    assert files(folder) == before


@pytest.mark.parametrize("finished", [True, False])
def test_an_input_with_other_content_is_refused_by_name_and_path(tmp_path, request_of, data, finished):
    (seal if finished else begin)(tmp_path / "out", request_of())
    data.write_text('{"prompt": "ho"}\n')
    with pytest.raises(InputsChangedError, match=rf"input 'data' \({data}\) has other content"):
        stage_folder(tmp_path / "out", request_of()).__enter__()


def test_an_input_more_is_refused(sealed, request_of, data):
    with pytest.raises(InputsChangedError, match=r"input 'more' \(.*\) was not used before"):
        stage_folder(sealed, request_of(inputs={"data": data, "more": data})).__enter__()


def test_an_input_may_move_as_long_as_its_content_stays(sealed, request_of, data, tmp_path):
    moved = shutil.copy(data, tmp_path / "elsewhere.jsonl")
    with stage_folder(sealed, request_of(inputs={"data": moved})) as found:
        assert isinstance(found, Manifest)


def test_unfinished_work_of_the_same_request_goes_on(tmp_path, request_of):
    begin(tmp_path / "out", request_of())
    with stage_folder(tmp_path / "out", request_of()) as space:
        assert (space.work / "checkpoint.pt").read_text() == "step 3"


def test_an_attempt_that_made_nothing_leaves_the_folder_free_for_the_mended_request(tmp_path, request_of, data):
    with suppress(RuntimeError), stage_folder(tmp_path / "out", request_of()):
        (tmp_path / "out" / "metrics.jsonl").touch()
        raise RuntimeError("line 1 is malformed")
    data.write_text('{"prompt": "mended"}\n')
    with stage_folder(tmp_path / "out", request_of()) as space:
        assert isinstance(space, Workspace)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden"])
def test_a_folder_with_foreign_files_is_refused_and_left_alone(tmp_path, request_of, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(ArtifactError, match="not empty and was not begun by chatwright"):
        stage_folder(tmp_path / "out", request_of()).__enter__()
    assert files(tmp_path / "out") == [name]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, request_of):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ArtifactError, match="is a file; expected a folder"):
        stage_folder(tmp_path / "out", request_of()).__enter__()


def test_an_empty_folder_is_taken(tmp_path, request_of):
    (tmp_path / "out").mkdir()
    seal(tmp_path / "out", request_of())


# --- What a manifest says and what lies there


def test_a_changed_file_is_told(sealed):
    (sealed / "model.txt").write_text("weighty")
    with pytest.raises(ArtifactError, match=r"model\.txt does not match its manifest \(changed or truncated\)"):
        read_manifest(sealed)


def test_a_truncated_file_is_told(sealed):
    os.truncate(sealed / "model.txt", 3)
    with pytest.raises(ArtifactError, match=r"model\.txt does not match"):
        read_manifest(sealed)


def test_a_missing_file_is_told(sealed):
    (sealed / "model.txt").unlink()
    with pytest.raises(ArtifactError, match=r"model\.txt is missing; the manifest lists it"):
        read_manifest(sealed)


def test_a_damaged_folder_is_no_input_and_no_finished_work(sealed, request_of):
    (sealed / "model.txt").write_text("other")
    with pytest.raises(ArtifactError, match="does not match"):
        fingerprint(sealed)
    with pytest.raises(ArtifactError, match="does not match"):
        stage_folder(sealed, request_of()).__enter__()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"kind": "policy", "inp', "not valid JSON"),
        ("", "not valid JSON"),
        ("[]", "holds list; expected an object"),
        ('{"kind": "policy"}', "schema None; this version reads 1"),
        ('{"schema": 99}', "schema 99; this version reads 1; update chatwright"),
        ('{"schema": 1, "kind": "policy"}', "changed by hand"),
        ("\x00\x01", "not valid JSON"),
    ],
)
def test_a_broken_or_foreign_manifest_is_told_in_one_line(sealed, content, said):
    (sealed / MANIFEST).write_text(content)
    with pytest.raises(ArtifactError) as told:
        read_manifest(sealed)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_a_manifest_with_wrong_types_is_told(sealed):
    data = json.loads((sealed / MANIFEST).read_text())
    (sealed / MANIFEST).write_text(json.dumps(data | {"files": ["model.txt"]}))
    with pytest.raises(ArtifactError, match="changed by hand"):
        read_manifest(sealed)


def test_a_broken_request_of_unfinished_work_is_told(tmp_path, request_of):
    begin(tmp_path / "out", request_of())
    os.truncate(tmp_path / "out" / WORK / "request.json", 5)
    with pytest.raises(ArtifactError, match="not valid JSON"):
        stage_folder(tmp_path / "out", request_of()).__enter__()


def test_a_folder_of_another_kind_is_refused(sealed):
    with pytest.raises(ArtifactError, match="holds 'policy'; expected 'reward-safety'"):
        read_manifest(sealed, "reward-safety")


def test_an_unfinished_folder_is_no_input(tmp_path):
    with pytest.raises(ArtifactError, match=r"has no manifest\.json: the stage that makes it has not finished"):
        read_manifest(tmp_path)


def test_the_digest_ignores_metrics_and_time_but_not_content(tmp_path, request_of):
    one = seal(tmp_path / "one", request_of(), metrics='{"seconds": 1}\n')
    two = seal(tmp_path / "two", request_of(seed=5), metrics='{"seconds": 2}\n')
    other = seal(tmp_path / "other", request_of(), content="other weights")
    assert read_manifest(one).files != read_manifest(two).files
    assert fingerprint(one) == fingerprint(two) != fingerprint(other)


def test_what_a_tracker_writes_is_outside_the_seal(tmp_path, request_of):
    with stage_folder(tmp_path / "out", request_of()) as space:
        (tmp_path / "out" / "tensorboard").mkdir()
        (tmp_path / "out" / "tensorboard" / "events").write_text("1")
        manifest = space.seal()
    (tmp_path / "out" / "tensorboard" / "events").write_text("looked at")
    assert manifest.files == {}
    assert read_manifest(tmp_path / "out") == manifest


def test_a_plain_folder_is_known_by_its_files_and_a_name_stands_for_itself(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a").write_text("1")
    before = fingerprint(tmp_path / "plain")
    (tmp_path / "plain" / "b").write_text("2")
    assert fingerprint(tmp_path / "plain") != before
    assert fingerprint("org/model") == "name:org/model"


# --- Kills and time


def test_a_kill_between_the_manifest_and_the_cleaning_up_is_finished_work(tmp_path, request_of, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(artifact.shutil, "rmtree", lambda *_, **__: None)  # as if killed before it
        seal(tmp_path / "out", request_of())
    assert (tmp_path / "out" / WORK / "checkpoint.pt").exists()
    with stage_folder(tmp_path / "out", request_of()) as found:
        assert isinstance(found, Manifest)
    assert not (tmp_path / "out" / WORK).exists()


def test_a_kill_before_the_manifest_is_unfinished_work(tmp_path, request_of, monkeypatch):
    def killed(path, content):
        if path.name == MANIFEST:
            raise KeyboardInterrupt
        real(path, content)

    real = write_atomic
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            seal(tmp_path / "out", request_of())
    assert not (tmp_path / "out" / MANIFEST).exists()
    seal(tmp_path / "out", request_of())
    read_manifest(tmp_path / "out")


def test_what_a_kill_left_of_a_write_is_swept_up(tmp_path, request_of):
    begin(tmp_path / "out", request_of())
    for leftover in ("manifest.json.tmp", ".pool.jsonl.1234.part", f"{WORK}/checkpoint-00000003-ab.pt.tmp"):
        (tmp_path / "out" / leftover).write_text("half")
    seal(tmp_path / "out", request_of())
    assert files(tmp_path / "out") == ["manifest.json", "metrics.jsonl", "model.txt"]


def test_seconds_add_up_over_resumes(tmp_path, request_of, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(artifact.time, "time", lambda: now[0])
    for spent in (10.0, 5.0):
        with suppress(KeyboardInterrupt), stage_folder(tmp_path / "out", request_of()) as space:
            (space.work / "checkpoint.pt").write_text("x")
            now[0] += spent
            raise KeyboardInterrupt
        now[0] += 3600  # nobody works on it
    with stage_folder(tmp_path / "out", request_of()) as space:
        now[0] += 2.5
        assert space.seal().seconds == 17.5


def test_a_sigkill_in_the_middle_of_a_write_keeps_checkpoint_and_seconds(tmp_path, request_of):
    begin(tmp_path / "out", request_of())
    begun = tmp_path / "out" / WORK / "request.json"
    state = json.loads(begun.read_text())
    begun.write_text(json.dumps(state | {"seconds": 100.0}))
    program = f"""
import os, signal
from pathlib import Path
from chatwright.artifact import *
request = Request.of("policy", {{"data": {str(tmp_path / "data.jsonl")!r}}}, {state["settings"]!r}, 0)
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL) if armed else None
armed = False
with stage_folder(Path({str(tmp_path / "out")!r}), request) as space:
    armed = True
    space.seal()
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "out" / "manifest.json.tmp").exists()
    assert not (tmp_path / "out" / MANIFEST).exists()
    with stage_folder(tmp_path / "out", request_of()) as space:
        assert (space.work / "checkpoint.pt").read_text() == "step 3"
        assert space.seal().seconds == pytest.approx(100.0, abs=1)
    assert files(tmp_path / "out") == ["manifest.json"]


# --- A disk that refuses


@pytest.mark.parametrize("refusing", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_refused_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, refusing, number):
    path = tmp_path / "report.json"
    write_atomic(path, "old")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, refusing, refuse)
    with pytest.raises(OSError, match=r"."):
        write_atomic(path, "new and longer")
    assert files(tmp_path) == ["report.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("refusing", ["fsync", "replace"])
def test_a_full_disk_is_a_storage_error_and_the_same_call_goes_on_later(tmp_path, request_of, monkeypatch, refusing):
    folder = tmp_path / "out"

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work():
        with stage_folder(folder, request_of()) as space:
            (folder / "model.txt").write_text("weights")
            (space.work / "checkpoint.pt").write_text("step 3")
            with monkeypatch.context() as patch:
                patch.setattr(os, refusing, refuse)
                space.seal()

    with pytest.raises(StorageError, match="No space left on device; make room or choose another output, then run the same command"):
        work()
    assert files(folder) == [f"{WORK}/checkpoint.pt", f"{WORK}/request.json", "model.txt"]
    with stage_folder(folder, request_of()) as space:
        assert (space.work / "checkpoint.pt").read_text() == "step 3"
        space.seal()
    read_manifest(folder)


def test_a_refused_permission_is_a_storage_error(tmp_path, request_of, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "out"))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        stage_folder(tmp_path / "out", request_of()).__enter__()


def test_an_error_that_is_not_the_disks_passes_through(tmp_path, request_of):
    with pytest.raises(FileNotFoundError), stage_folder(tmp_path / "out", request_of()):
        (tmp_path / "nowhere").read_text()


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a tiny file system needs root and mount")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tiny file system could not be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_checkpoint_that_does_not_fit_a_real_disk_leaves_the_last_one_and_the_work_goes_on(tiny_disk, request_of):
    folder = tiny_disk / "out"

    def work():
        with stage_folder(folder, request_of()) as space:
            save_checkpoint(space.work, 1, {"weights": torch.ones(1000)})
            (tiny_disk / "ballast").write_bytes(b"x" * 40_000)
            save_checkpoint(space.work, 2, {"weights": torch.ones(8000)})

    with pytest.raises(StorageError, match="No space left on device"):
        work()
    assert not list(folder.rglob("*.tmp"))
    assert load_checkpoint(folder / WORK)["step"] == 1
    (tiny_disk / "ballast").unlink()
    with stage_folder(folder, request_of()) as space:
        assert load_checkpoint(space.work)["step"] == 1
        save_checkpoint(space.work, 2, {"weights": torch.ones(8000)})
        (folder / "model.txt").write_text("weights")
        space.seal()
    assert files(folder) == ["manifest.json", "model.txt"]
    read_manifest(folder)


def test_a_disk_that_fills_before_the_manifest_leaves_none(tiny_disk, request_of):
    folder = tiny_disk / "out"

    def work():
        with stage_folder(folder, request_of()) as space:
            (folder / "model.txt").write_text("weights")
            (space.work / "checkpoint.pt").write_text("step 3")
            with suppress(OSError):
                (tiny_disk / "ballast").write_bytes(b"x" * 100_000)
            space.seal()

    with pytest.raises(StorageError, match="No space left"):
        work()
    assert not (folder / MANIFEST).exists()
    assert not list(folder.rglob("*.tmp"))
    (tiny_disk / "ballast").unlink()
    with stage_folder(folder, request_of()) as space:
        assert (space.work / "checkpoint.pt").read_text() == "step 3"
        space.seal()


# --- Checkpoints


@pytest.mark.parametrize("damage", [lambda content: content[:-10], lambda content: content[:50] + b"!" + content[51:], lambda _: b""])
def test_a_damaged_checkpoint_is_told_and_never_loaded(tmp_path, damage):
    save_checkpoint(tmp_path, 4, {"weights": torch.ones(3)})
    path = next(tmp_path.glob("checkpoint-*.pt"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match=r"is damaged \(truncated or changed\); delete it and run the same command"):
        load_checkpoint(tmp_path)


def test_the_newest_checkpoint_is_kept_and_the_older_ones_go(tmp_path):
    assert load_checkpoint(tmp_path) is None
    for step in (9, 10):
        save_checkpoint(tmp_path, step, {})
    assert [p.name[:19] for p in tmp_path.iterdir()] == ["checkpoint-00000010"]
    assert load_checkpoint(tmp_path) == {"step": 10}


def test_a_request_survives_its_own_json(request_of):
    request = request_of()
    assert request.difference(json.loads(json.dumps(asdict(request)))) is None
