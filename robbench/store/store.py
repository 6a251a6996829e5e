"""Trained models, finished stages and checkpoints on disk: safetensors and JSON, never a pickle.

One folder per digest. ``stage.json`` is written last, so a stage is finished exactly when it is there. Every write goes
to a temporary name, is flushed, and renamed; a lock per digest lets several processes share a store. A stage that is made
again puts its tensors beside the old ones: until ``stage.json`` names them the old stage stands, for readers that hold no
lock as well as after a kill. Every file is covered by a SHA-256, so that what is read is what was written. A checksum is
no signature: it finds damage, not forgery.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from robbench.errors import RobbenchError
from robbench.record import UNREADABLE, Record, Struct, sha256_of
from robbench.store.files import check_writable, remove_leftovers, write_atomically
from robbench.store.interruption import postponed
from robbench.store.locks import acquire, file_lock, to_stderr

SCHEMA = "robbench.store/1"

_Weights = Literal["weights.safetensors", "weights-2.safetensors"]


class Finished(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished stage: which run made it, its record, and the checksums of what lies beside it."""

    schema: str
    run: str
    record: Record
    weights_sha256: str | None = None
    adversarials_sha256: str | None = None
    """None where the counterexamples were not kept."""
    inputs: str | None = None
    """Over the images of the stage and of all its sources; None without a source, where the record says all."""
    made_from: str | None = None
    """SHA-256 of the weights that it began with: the model's whose p* it is, or the source's of a transfer; None where
    there are none, or an older version did not say."""
    ending: Literal["", "-2"] = ""
    """Of the names of its files of tensors: those of a stage that takes another's place differ from the old ones."""
    finished: float = 0.0
    """When, in seconds since 1970; 0 where an older version did not say."""
    code: str = ""
    """By which code, as the run that made it told it apart; empty where it did not."""
    sha256: str | None = None
    """Over all of the above, as canonical JSON; None in files from before it existed."""


class Store:
    """A folder of finished stages and checkpoints, by digest.

    Args:
        folder: made when first written to.
        run: identifies this test session, shared by all its workers.
        code: identifies the code that makes stages here.
    """

    def __init__(self, folder: Path, run: str, code: str = "") -> None:
        self.folder = folder
        self.run = run
        self.code = code

    def check_writable(self) -> None:
        """Raise a RobbenchError unless a file can be written here."""
        check_writable(self.folder)

    @contextmanager
    def lock(self, digest: str, what: str = "", say: Callable[[str], None] = to_stderr) -> Iterator[None]:
        """Hold a digest's stage, so that no two processes make it at once.

        Args:
            digest: of the stage.
            what: the stage's name, for whoever waits.
            say: gets one sentence where another run holds it for long, as of :func:`robbench.store.locks.acquire`.

        Raises:
            RobbenchError: its folder cannot be written.
        """
        path = self._folder(digest)
        lock = file_lock(path / "lock")
        try:
            path.mkdir(parents=True, exist_ok=True)
            acquire(lock, what or digest, say, self.run)
        except OSError as error:
            raise RobbenchError(f"store {str(path)!r} cannot be locked: {_reason(error)}") from error
        try:
            remove_leftovers(path)
            yield
        finally:
            lock.release()

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
            raise RobbenchError(f"{path} cannot be read: {_reason(error)}") from error
        try:
            stage = msgspec.json.decode(data, type=Finished)
            values = msgspec.json.decode(data)
        except UNREADABLE as error:
            raise damaged(path, error) from error
        if stage.schema != SCHEMA or stage.record.digest != digest:
            raise damaged(path, f"schema {stage.schema!r}, digest {stage.record.digest[:12]}")
        if stage.sha256 is not None and stage.sha256 != sha256_of(values):
            raise damaged(path, "its SHA-256 is not the one that was written")
        return stage

    def weights(self, digest: str) -> dict[str, Tensor]:
        """The weights of a finished training stage, on the CPU.

        Raises:
            RobbenchError: there are none, or the file is not the one that was written.
        """
        return self.weights_and_checksum(digest)[0]

    def weights_and_checksum(self, digest: str) -> tuple[dict[str, Tensor], str]:
        """The same, and the SHA-256 of the file that they were read from."""
        return self._tensors(digest, "weights", self.finished(digest))

    def adversarials(self, digest: str) -> Tensor | None:
        """The counterexamples of a finished robustness stage, (M, C, H, W) on the CPU; None where it kept none.

        They are those of the M images with a p* on the grid, in the record's order of images.

        Raises:
            RobbenchError: the file is not the one that was written.
        """
        stage = self.finished(digest)
        if stage is None or stage.adversarials_sha256 is None:
            return None
        tensors, _ = self._tensors(digest, "adversarials", stage)
        if set(tensors) != {"adversarials"}:
            raise damaged(self._folder(digest) / "adversarials.safetensors", f"it holds {sorted(tensors)}")
        return tensors["adversarials"]

    def check(self, digest: str, stage: Finished) -> None:
        """Raise a RobbenchError unless the tensors that a finished stage kept are those that were written."""
        if stage.weights_sha256 is not None:
            self._tensors(digest, "weights", stage)
        if stage.adversarials_sha256 is not None:
            self._tensors(digest, "adversarials", stage)

    def finish(
        self,
        record: Record,
        weights: Mapping[str, Tensor] | None = None,
        *,
        adversarials: Tensor | None = None,
        inputs: str | None = None,
        made_from: str | None = None,
    ) -> None:
        """Keep a finished stage in place of an older one, and drop its checkpoint.

        ``adversarials`` are as :meth:`adversarials` returns them, ``inputs`` and ``made_from`` as in :class:`Finished`.

        Raises:
            RobbenchError: it cannot be written; then an older stage stands, and the checkpoint stays.
        """
        folder = self._folder(record.digest)
        old = self.undamaged(record.digest)
        ending: Literal["", "-2"] = "-2" if old is not None and old.ending == "" else ""
        with postponed():
            stage = Finished(
                schema=SCHEMA,
                run=self.run,
                record=record,
                weights_sha256=_write(folder / f"weights{ending}.safetensors", weights),
                adversarials_sha256=_write(
                    folder / f"adversarials{ending}.safetensors",
                    None if adversarials is None else {"adversarials": adversarials},
                ),
                inputs=inputs,
                made_from=made_from,
                ending=ending,
                finished=time.time(),
                code=self.code,
            )
            values = msgspec.json.decode(msgspec.json.encode(stage))
            values["sha256"] = sha256_of(values)
            write_atomically(folder / "stage.json", msgspec.json.format(msgspec.json.encode(values), indent=1))
            other = "" if ending else "-2"
            for name in (f"weights{other}", f"adversarials{other}", "checkpoint"):
                _remove(folder / f"{name}.safetensors")

    def undamaged(self, digest: str) -> Finished | None:
        """The finished stage of a digest; None where there is none, or a damaged one."""
        try:
            return self.finished(digest)
        except RobbenchError:
            return None

    def save_checkpoint(self, digest: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Keep the state of an unfinished stage: tensors by name, and plain JSON values."""
        state = json.dumps({**values, "digest": digest})
        data = save(dict(tensors), metadata={"state": state, "sha256": _sha256_with(tensors, state)})
        write_atomically(self._folder(digest) / "checkpoint.safetensors", data)

    def load_checkpoint(self, digest: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state of an unfinished stage, or None.

        Raises:
            RobbenchError: the file is damaged.
        """
        path = self.checkpoint_path(digest)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values = json.loads(metadata["state"])
            # A checkpoint from before there were checksums has none.
            intact = metadata.get("sha256") in (None, _sha256_with(tensors, metadata["state"]))
            if not isinstance(values, dict) or not intact:
                raise ValueError("its SHA-256 is not the one that was written")
            if (of := values.pop("digest", digest)) != digest:  # one from before there were digests says none
                raise ValueError(f"it is another stage's, of digest {str(of)[:12]}…")
        except (SafetensorError, OSError, *UNREADABLE, KeyError, TypeError, AttributeError) as error:
            raise damaged(path, error) from error
        return tensors, values

    def checkpoint_path(self, digest: str) -> Path:
        """Where the state of an unfinished stage lies."""
        return self._folder(digest) / "checkpoint.safetensors"

    def _tensors(
        self, digest: str, kind: Literal["weights", "adversarials"], stage: Finished | None
    ) -> tuple[dict[str, Tensor], str]:
        """What a finished stage kept, or the stage that another process put in its place meanwhile; and its SHA-256."""
        while True:
            path = self._folder(digest) / f"{kind}{stage.ending if stage else ''}.safetensors"
            fault = "its SHA-256 is not the one recorded"
            try:
                data = path.read_bytes()
                checksum = hashlib.sha256(data).hexdigest()
                if stage is not None and checksum == (
                    stage.weights_sha256 if kind == "weights" else stage.adversarials_sha256
                ):
                    return load(data), checksum
            except OSError as error:
                fault = _reason(error)
            except (SafetensorError, ValueError, KeyError) as error:
                raise damaged(path, error) from error
            before, stage = stage, self.finished(digest)
            if stage == before:
                raise damaged(path, fault)

    def _folder(self, digest: str) -> Path:
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise RobbenchError(f"store: expected a SHA-256 in hexadecimal, got {digest!r}")
        return self.folder / digest[:2] / digest


def _write(path: Path, tensors: Mapping[str, Tensor] | None) -> str | None:
    """Write tensors and return the file's SHA-256; without any, there is no file either."""
    if tensors is None:
        _remove(path)
        return None
    data = save(dict(tensors))
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def damaged(path: Path, why: object) -> RobbenchError:
    """The error for a file of the store that is not what was written."""
    return RobbenchError(f"{path} is damaged ({why}); remove its folder {path.parent} and run again")


def _sha256_with(tensors: Mapping[str, Tensor], state: str) -> str:
    """Of a checkpoint's values and of its tensors with their names, dtypes and shapes."""
    digest = hashlib.sha256(state.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RobbenchError(f"{path} cannot be removed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
