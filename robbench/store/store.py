"""Finished stages and the saved state of unfinished ones: a folder per key, with safetensors and JSON, never a pickle.

A stage's key is a digest of all that decides its result, so a key never changes its meaning. ``stage.json`` is written
last: a stage is finished exactly when it is there. Files of tensors carry their SHA-256 in their names; a file that does
not match its name is damaged.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from robbench.errors import RobbenchError
from robbench.record import Record, Struct
from robbench.store.files import check_writable, remove_leftovers, write_atomically
from robbench.store.locks import locked, to_stderr

if TYPE_CHECKING:
    from torch import Tensor

UNREADABLE = (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError)
"""What decoding raises of bytes that are not what is expected."""


class Need(Struct, frozen=True, kw_only=True):
    """A stage that another one was made from."""

    key: str
    weights_sha256: str | None


class Finished(Struct, frozen=True, kw_only=True):
    """A finished stage: its record, what it was made from, and the checksums of the tensors beside it."""

    record: Record
    needs: dict[str, Need]
    """By role."""
    weights_sha256: str | None = None
    """None: the stage made no weights."""
    adversarials_sha256: str | None = None
    """None: the counterexamples were not kept."""


class Store:
    """A folder of stages by their key. Several processes may share it.

    Args:
        folder: made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check_writable(self) -> None:
        """Raise a RobbenchError unless a file can be written here."""
        check_writable(self.folder)

    def identity(self) -> str:
        """What tells this store from all others; written to its folder at the first call."""
        path = self.folder / "identity"
        if not path.exists():
            write_atomically(path, uuid.uuid4().hex.encode())
        return path.read_text(encoding="utf-8")

    @contextmanager
    def lock(self, key: str, what: str = "a stage", say: Callable[[str], None] = to_stderr) -> Iterator[None]:
        """Hold a stage, so that no two processes make it at once; arguments as of :func:`robbench.store.locks.locked`."""
        folder = self._folder(key)
        with locked(folder / "lock", what, say):
            remove_leftovers(folder)
            yield

    def finished(self, key: str) -> Finished | None:
        """The finished stage of a key, or None.

        Raises:
            RobbenchError: its file is damaged.
        """
        path = self._folder(key) / "stage.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Finished)
        except FileNotFoundError:
            return None
        except (OSError, *UNREADABLE) as error:
            raise damaged(path, error) from error

    def finish(
        self,
        key: str,
        record: Record,
        weights: Mapping[str, Tensor] | None = None,
        adversarials: Tensor | None = None,
        needs: Mapping[str, Need] | None = None,
    ) -> Finished:
        """Keep a finished stage in place of an older one of its key, and drop the saved state.

        Args:
            key: of the stage.
            record: what came out.
            weights: of a training stage.
            adversarials: (M, C, H, W), the counterexamples of the M images with a p* on the grid, in the record's order.
            needs: the stages that it was made from, by role.

        Raises:
            RobbenchError: it cannot be written; then an older stage stands, and the saved state stays.
        """
        kept = None if adversarials is None else {"adversarials": adversarials}
        stage = Finished(
            record=msgspec.structs.replace(record, key=key),
            needs=dict(needs or {}),
            weights_sha256=self._write(key, "weights", weights),
            adversarials_sha256=self._write(key, "adversarials", kept),
        )
        folder = self._folder(key)
        write_atomically(self.folder / "tasks" / record.digest, b"")
        write_atomically(folder / "stage.json", msgspec.json.format(msgspec.json.encode(stage), indent=1))
        named = {f"weights.{stage.weights_sha256}", f"adversarials.{stage.adversarials_sha256}"}
        for path in folder.glob("*.safetensors"):
            if path.stem not in named:
                path.unlink(missing_ok=True)
        return stage

    def knows(self, digest: str) -> bool:
        """Whether any stage of a task's digest was ever finished here; its key may be another one now."""
        return (self.folder / "tasks" / digest).exists()

    def weights(self, trained: Finished) -> dict[str, Tensor]:
        """The weights of a finished training stage, on the CPU.

        Raises:
            RobbenchError: the stage made none, they were replaced meanwhile, or the file is damaged.
        """
        key, checksum = trained.record.key, trained.weights_sha256
        if checksum is None:
            raise RobbenchError(f"{trained.record.name}: expected a stage that made weights, this one made none")
        now = self.finished(key)
        if now is not None and now.weights_sha256 != checksum:
            raise RobbenchError(f"{trained.record.name}: another run made its weights again meanwhile; run again")
        return self._read(key, "weights", checksum)

    def adversarials(self, key: str) -> Tensor | None:
        """The counterexamples of a finished stage, as :meth:`finish` got them; None where they were not kept.

        Raises:
            RobbenchError: the file is damaged.
        """
        stage = self.finished(key)
        if stage is None or stage.adversarials_sha256 is None:
            return None
        return self._read(key, "adversarials", stage.adversarials_sha256)["adversarials"]

    def pack(self, key: str) -> dict[str, bytes]:
        """The files of a finished stage, by name, for another store."""
        folder = self._folder(key)
        return {path.name: path.read_bytes() for path in (*folder.glob("*.*.safetensors"), folder / "stage.json")}

    def unpack(self, key: str, files: Mapping[str, bytes]) -> Finished:
        """Keep a finished stage from the files that another store packed, in place of an older one of its key."""
        folder = self._folder(key)
        for name, data in sorted(files.items(), key=lambda file: file[0] == "stage.json"):  # which is written last
            write_atomically(folder / name, data)
        stage = self.finished(key)
        assert stage is not None
        write_atomically(self.folder / "tasks" / stage.record.digest, b"")
        for path in folder.glob("*.safetensors"):
            if path.name not in files:
                path.unlink(missing_ok=True)
        return stage

    def save_state(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep the state of an unfinished stage: nested mappings of CPU tensors and JSON values."""
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        values = _without_tensors(state, tensors)
        data = save(tensors, metadata={"values": msgspec.json.encode(values).decode()})
        write_atomically(self._folder(key) / "state.safetensors", data)

    def load_state(self, key: str) -> dict[str, Any] | None:
        """The state of an unfinished stage, or None.

        Raises:
            RobbenchError: the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = self.state_path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                state: dict[str, Any] = msgspec.json.decode(file.metadata()["values"])
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    *parents, last = name.split("/")
                    inner = state
                    for parent in parents:
                        inner = inner.setdefault(parent, {})
                    inner[last] = file.get_tensor(name)
        except (SafetensorError, OSError, *UNREADABLE) as error:
            raise damaged(path, error) from error
        return state

    def keep_state(self, key: str, data: bytes) -> None:
        """Keep the state of an unfinished stage, as the file that another store wrote."""
        write_atomically(self.state_path(key), data)

    def drop_state(self, key: str) -> None:
        """Forget the state of an unfinished stage."""
        self.state_path(key).unlink(missing_ok=True)

    def state_path(self, key: str) -> Path:
        """Where the state of an unfinished stage lies."""
        return self._folder(key) / "state.safetensors"

    def _write(self, key: str, kind: str, tensors: Mapping[str, Tensor] | None) -> str | None:
        """Write tensors and return the SHA-256 of the file; None of none."""
        if tensors is None:
            return None
        from safetensors.torch import save

        data = save(dict(tensors))
        checksum = hashlib.sha256(data).hexdigest()
        write_atomically(self._folder(key) / f"{kind}.{checksum}.safetensors", data)
        return checksum

    def _read(self, key: str, kind: str, checksum: str) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self._folder(key) / f"{kind}.{checksum}.safetensors"
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != checksum:
                raise ValueError("its SHA-256 is not the one in its name")
            return load(data)
        except (SafetensorError, OSError, ValueError) as error:
            raise damaged(path, error) from error

    def _folder(self, key: str) -> Path:
        return self.folder / key[:2] / key


def _without_tensors(state: Mapping[str, Any], tensors: dict[str, Tensor], path: str = "") -> dict[str, Any]:
    """The JSON values of a nested state; its tensors go to ``tensors`` under their path (``search/pstar``)."""
    values: dict[str, Any] = {}
    for name, value in state.items():
        if hasattr(value, "dtype"):
            tensors[f"{path}{name}"] = value.contiguous()
        else:
            values[name] = _without_tensors(value, tensors, f"{path}{name}/") if isinstance(value, Mapping) else value
    return values


def damaged(path: Path, why: object) -> RobbenchError:
    """The error for a file of the store that is not what was written."""
    return RobbenchError(f"{path} is damaged ({why}); remove the folder {path.parent} and run again")
