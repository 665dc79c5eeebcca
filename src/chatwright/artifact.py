"""Sealed folders: what a stage leaves behind, and how it is found again.

A stage works in OUTPUT/.work and seals OUTPUT by writing manifest.json last, by atomic rename: its presence means complete. The same
request again finds the work done; another request for the same folder is refused with the difference named. A stage that was killed goes
on from what .work holds, if the request is still the same; an attempt that made nothing yet holds no claim.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chatwright import __version__
from chatwright.errors import ArtifactError, ChatwrightError, InputsChangedError, StorageError

SCHEMA = 1
MANIFEST = "manifest.json"
WORK = ".work"
# Metrics hold times, so they do not count for a folder's identity; trackers' own files change when people look at them.
_TIMED = ("metrics.jsonl",)
_TRACKERS = ("tensorboard", "wandb", "mlruns", "mlflow.db")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a sealed folder holds and where it came from. `inputs` maps a name to {path, digest}; `files` a file to its sha256."""

    kind: str
    inputs: dict[str, dict[str, str]]
    settings: dict[str, Any]
    seed: int
    files: dict[str, str]
    counts: dict[str, int]
    metrics: dict[str, Any]
    seconds: float
    code_version: str = __version__
    schema: int = SCHEMA

    @property
    def digest(self) -> str:
        """Identity of the content: the same whenever the same files came out."""
        payload = {name: sha for name, sha in self.files.items() if name not in _TIMED}
        return hashlib.sha256(json.dumps([self.kind, payload], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a stage: with equal requests the work is the same."""

    kind: str
    inputs: dict[str, dict[str, str]]
    settings: dict[str, Any]
    seed: int

    @classmethod
    def of(cls, kind: str, inputs: Mapping[str, str | Path], settings: Mapping[str, Any], seed: int) -> Request:
        """A request whose inputs are fingerprinted now."""
        found = {name: {"path": str(path), "digest": fingerprint(path)} for name, path in inputs.items()}
        return cls(kind, found, json.loads(json.dumps(settings)), seed)

    def difference(self, other: Mapping[str, Any]) -> str | None:
        """The first way in which `other` (a manifest or an earlier request, as JSON) differs, in words; None if it is the same work."""
        if other.get("kind") != self.kind:
            return f"kind is {other.get('kind')!r}, asked for {self.kind!r}"
        then = other.get("inputs", {})
        for name in sorted(set(then) | set(self.inputs)):
            a, b = then.get(name, {}).get("digest"), self.inputs.get(name, {}).get("digest")
            if a != b:
                path = self.inputs.get(name, then.get(name, {})).get("path")
                return f"input {name!r} ({path}) {'has other content' if a and b else 'was not used before' if b else 'is no longer used'}"
        if other.get("seed") != self.seed:
            return f"seed was {other.get('seed')}, now {self.seed}"
        return _first_difference(other.get("settings", {}), self.settings, "")


@dataclass(slots=True)
class Workspace:
    """An open stage folder: write results to `folder`, anything needed only to resume to `work`."""

    folder: Path
    work: Path
    request: Request
    started: float

    def seal(self, *, counts: Mapping[str, int] | None = None, metrics: Mapping[str, Any] | None = None) -> Manifest:
        """Hash every file, write the manifest, drop the work folder."""
        with storage_errors(self.folder):
            spent = json.loads((self.work / "request.json").read_text())["seconds"] + time.time() - self.started
            files = {
                str(path.relative_to(self.folder)): file_sha256(path)
                for path in sorted(self.folder.rglob("*"))
                if path.is_file() and path.relative_to(self.folder).parts[0] not in (WORK, *_TRACKERS)
            }
            r = self.request
            manifest = Manifest(r.kind, r.inputs, r.settings, r.seed, files, dict(counts or {}), dict(metrics or {}), round(spent, 2))
            write_atomic(self.folder / MANIFEST, json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n")
            shutil.rmtree(self.work, ignore_errors=True)
        return manifest


@contextmanager
def stage_folder(folder: Path, request: Request) -> Iterator[Manifest | Workspace]:
    """The finished folder's Manifest if this very work is done, else a Workspace to do it in.

    Raises InputsChangedError if the folder holds finished or begun work of another request, ArtifactError if it holds foreign files,
    StorageError if the disk refuses.
    """
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        if difference := request.difference(asdict(manifest)):
            raise InputsChangedError(
                f"{folder} is finished work of another request: {difference}; choose another output folder or delete it"
            )
        shutil.rmtree(folder / WORK, ignore_errors=True)
        yield manifest
        return
    work = folder / WORK
    begun = work / "request.json"
    spent = 0.0
    if begun.exists():
        earlier = _read_json(begun)
        difference = request.difference(earlier)
        if difference and not _untouched(folder):
            raise InputsChangedError(
                f"{folder} holds unfinished work of another request: {difference}; ask for the same again or delete it"
            )
        spent = 0.0 if difference else earlier["seconds"]
    elif folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; expected a folder to write; choose another output folder")
    elif folder.exists() and any(p.name != WORK for p in folder.iterdir()):
        raise ArtifactError(f"{folder} is not empty and was not begun by chatwright; choose another output folder")
    started = time.time()
    with storage_errors(folder):
        work.mkdir(parents=True, exist_ok=True)
        for place in (folder, work):
            for leftover in (*place.glob("*.tmp"), *place.glob(".*.part")):  # a kill in the middle of an atomic write
                leftover.unlink()
        write_atomic(begun, json.dumps({**asdict(request), "seconds": spent}))
    try:
        with storage_errors(folder):
            yield Workspace(folder, work, request, started)
    finally:
        if begun.exists():  # stopped before the seal: remember the time spent
            with suppress(OSError):
                write_atomic(begun, json.dumps({**asdict(request), "seconds": spent + time.time() - started}))


def read_manifest(folder: Path, kind: str | None = None, *, verify: bool = True) -> Manifest:
    """The manifest of a sealed folder. Raises ArtifactError if it is missing, of another kind, or does not match its files."""
    path = folder / MANIFEST
    if not path.exists():
        raise ArtifactError(f"{folder} has no {MANIFEST}: the stage that makes it has not finished; run it (again) first")
    data = _read_json(path)
    if data.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path}: schema {data.get('schema')!r}; this version reads {SCHEMA}; update chatwright or make the folder again"
        )
    try:
        manifest = Manifest(**data)
    except TypeError as error:
        raise ArtifactError(f"{path}: {error}; the manifest was changed by hand; make the folder again") from None
    if not all(isinstance(part, dict) for part in (manifest.inputs, manifest.settings, manifest.files, manifest.counts, manifest.metrics)):
        raise ArtifactError(f"{path}: found other types than a manifest has; it was changed by hand; make the folder again")
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{folder} holds {manifest.kind!r}; expected {kind!r}; name the right folder")
    if verify:
        for name, sha in manifest.files.items():
            if not (folder / name).exists():
                raise ArtifactError(f"{folder}: {name} is missing; the manifest lists it; restore it or make the folder again")
            if file_sha256(folder / name) != sha:
                raise ArtifactError(
                    f"{folder}: {name} does not match its manifest (changed or truncated); restore it or make the folder again"
                )
    return manifest


def fingerprint(path: str | Path) -> str:
    """Identity of an input: a sealed folder's digest, the hash of a file or of all files of a folder; a hub name stands for itself."""
    path = Path(path)
    if (path / MANIFEST).exists():
        return read_manifest(path).digest
    if path.is_file():
        return file_sha256(path)
    if path.is_dir():
        names = {str(p.relative_to(path)): file_sha256(p) for p in sorted(path.rglob("*")) if p.is_file()}
        return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()
    return f"name:{path}"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, flushed to the disk, then renamed."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turn the disk's refusals into a StorageError that says what to do."""
    try:
        yield
    except ChatwrightError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _rust_errno(error)
        if number not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO):
            raise
        what = getattr(error, "filename", None) or where
        reason = os.strerror(number)
        raise StorageError(f"{what}: {reason}; make room or choose another output, then run the same command to go on") from error


def _rust_errno(error: Exception) -> int | None:
    """The error number inside an exception of safetensors or tokenizers, which wrap the disk's refusals in kinds of their own."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ArtifactError(f"{path} is not valid JSON (truncated?); delete the folder and make it again") from None
    if not isinstance(data, dict):
        raise ArtifactError(f"{path} holds {type(data).__name__}; expected an object")
    return data


def _untouched(folder: Path) -> bool:
    """True if an attempt ended before it made anything, so that another request may have the folder: a mistake mended, say."""
    made = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    return all(
        path == folder / WORK / "request.json" or path.suffix in (".tmp", ".part") or path.relative_to(folder).parts[0] in _TRACKERS
        for path in made
    )


def _first_difference(then: Any, now: Any, key: str) -> str | None:
    if isinstance(then, dict) and isinstance(now, dict):
        for name in sorted(set(then) | set(now)):
            if found := _first_difference(then.get(name), now.get(name), f"{key}.{name}" if key else name):
                return found
        return None
    return None if then == now else f"setting {key} was {then!r}, now {now!r}"
