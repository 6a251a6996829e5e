"""Trained models, finished stages and checkpoints on disk: safetensors and JSON, never a pickle.

One folder per digest. ``stage.json`` is written last, so a stage is finished exactly when it is there. Every write goes
to a temporary name, is flushed, and renamed; a lock per digest lets several processes share a store. A stage that is made
again puts its weights beside the old ones: until ``stage.json`` names them the old stage stands, for readers that hold no
lock as well as after a kill.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from robbench.errors import RobbenchError
from robbench.interruption import postponed
from robbench.record import Record, _Struct, check_writable, write_atomically

SCHEMA = "robbench.store/1"

_Weights = Literal["weights.safetensors", "weights-2.safetensors"]


class Finished(_Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished stage: which run made it, its record, and the checksum of its weights."""

    schema: str
    run: str
    record: Record
    weights_sha256: str | None = None
    inputs: str | None = None
    """Over the images of the stage and of all its sources; None without a source, where the record says all."""
    weights: _Weights = "weights.safetensors"
    """The file that holds them."""
    finished: float = 0.0
    """When, in seconds since 1970; 0 where an older version did not say."""


class Store:
    """A folder of finished stages and checkpoints, by digest.

    Args:
        folder: made when first written to.
        run: identifies this test session, shared by all its workers.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder
        self.run = run

    def check_writable(self) -> None:
        """Raise a RobbenchError unless a file can be written here."""
        check_writable(self.folder)

    @contextmanager
    def lock(self, digest: str) -> Iterator[None]:
        """Hold a digest's stage, so that no two processes make it at once."""
        path = self._folder(digest)
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / "lock"):
            yield

    def finished(self, digest: str) -> Finished | None:
        """The finished stage of a digest, or None.

        Raises:
            RobbenchError: the file is damaged or not ours.
        """
        path = self._folder(digest) / "stage.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RobbenchError(f"{path} cannot be read: {error.strerror or error}") from error
        try:
            stage = msgspec.json.decode(data, type=Finished)
        except (msgspec.MsgspecError, ValueError) as error:
            raise _damaged(path, error) from error
        if stage.schema != SCHEMA or stage.record.digest != digest:
            raise _damaged(path, f"schema {stage.schema!r}, digest {stage.record.digest[:12]}")
        return stage

    def weights(self, digest: str) -> dict[str, Tensor]:
        """The weights of a finished training stage, on the CPU.

        Raises:
            RobbenchError: there are none, or the file is not the one that was written.
        """
        stage = self.finished(digest)
        while True:
            path = self._folder(digest) / (stage.weights if stage is not None else "weights.safetensors")
            fault = "its SHA-256 is not the one recorded"
            try:
                data = path.read_bytes()
                if stage is not None and hashlib.sha256(data).hexdigest() == stage.weights_sha256:
                    return load(data)
            except OSError as error:
                fault = error.strerror or str(error)
            before, stage = stage, self.finished(digest)
            if stage == before:  # otherwise another process made the stage again between the two files
                raise _damaged(path, fault)

    def finish(self, record: Record, weights: Mapping[str, Tensor] | None = None, *, inputs: str | None = None) -> None:
        """Keep a finished stage in place of an older one, and drop its checkpoint."""
        folder = self._folder(record.digest)
        files: tuple[_Weights, ...] = get_args(_Weights)
        name, checksum = next(name for name in files if name != self._weights_file(record.digest)), None
        with postponed():
            if weights is not None:
                data = save(dict(weights))
                checksum = hashlib.sha256(data).hexdigest()
                write_atomically(folder / name, data)
            stage = Finished(
                schema=SCHEMA,
                run=self.run,
                record=record,
                weights_sha256=checksum,
                inputs=inputs,
                weights=name,
                finished=time.time(),
            )
            write_atomically(folder / "stage.json", msgspec.json.format(msgspec.json.encode(stage), indent=1))
            for old in (*(file for file in files if file != name), "checkpoint.safetensors"):
                (folder / old).unlink(missing_ok=True)

    def _weights_file(self, digest: str) -> str | None:
        """Name of the weights that a finished stage refers to; None where there is no such stage, or a damaged one."""
        try:
            stage = self.finished(digest)
        except RobbenchError:
            return None
        return stage.weights if stage is not None and stage.weights_sha256 is not None else None

    def save_checkpoint(self, digest: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Keep the state of an unfinished stage: tensors by name, and plain JSON values."""
        data = save(dict(tensors), metadata={"state": json.dumps(values)})
        write_atomically(self._folder(digest) / "checkpoint.safetensors", data)

    def load_checkpoint(self, digest: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state of an unfinished stage, or None.

        Raises:
            RobbenchError: the file is damaged.
        """
        path = self._folder(digest) / "checkpoint.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                values = json.loads(file.metadata()["state"])
                return {name: file.get_tensor(name) for name in file.keys()}, values  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error

    def _folder(self, digest: str) -> Path:
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise RobbenchError(f"store: expected a SHA-256 in hexadecimal, got {digest!r}")
        return self.folder / digest[:2] / digest


def _damaged(path: Path, why: object) -> RobbenchError:
    return RobbenchError(f"{path} is damaged ({why}); remove its folder {path.parent} and run again")
