"""Several processes that train one model: who this one is, what they tell each other, and how they end together.

Every rank reads the same batch, encodes its own share of the views and items, and has all vectors before the loss: so candidates are those
of the whole batch, wherever they were encoded. All that is summed over ranks is summed in one order, and every rank makes the identical move.

Words go through a store, where one may wait for another for hours; tensors go through collectives, which all ranks enter in the same order.
Who fails first says why, and the others end without a word. torch is imported when there is something to share.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count as counted
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.data.columns import Array
from twotower.errors import ConfigError, Elsewhere, TwotowerError

if TYPE_CHECKING:
    from torch import Tensor

MEETING = timedelta(minutes=5)  # in which all ranks must have come
PATIENCE = timedelta(days=7)  # of a collective: a rank that is gone is noticed by its connection, not by the clock
LOOK_EVERY = 0.2  # seconds between two looks for a word
FAREWELL = 10.0  # seconds that the first rank, who may keep the store, waits for the others to have read its last word
_MEETINGS = counted()


def several() -> bool:
    """Whether this process was started as one of several, as torchrun does."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1") and "RANK" in os.environ


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return not several() or os.environ["RANK"] == "0"


def local_count() -> int:
    """How many ranks there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])) if several() else 1


def local_rank() -> int:
    """Which of them this is."""
    return int(os.environ.get("LOCAL_RANK", os.environ["RANK"])) if several() else 0


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(n: int, ranks: int, starts: Array | None = None) -> Array:
    """Where the share of each rank begins, and the last one ends: int64 [ranks + 1] of 0..n.

    starts: where the parts begin that stay whole, as views that read one window do; each counts the same.
    """
    places = np.arange(n + 1) if starts is None else np.append(starts, n)
    return np.asarray(places[np.arange(ranks + 1) * (len(places) - 1) // ranks], np.int64)


class Team:
    """The processes that train together, as one of them sees it. Where it is the only one, collectives give back what they were given."""

    def __init__(self, rank: int = 0, count: int = 1, store: Any = None) -> None:
        self.rank, self.count, self._store = rank, count, store
        self._connected = False
        self.asked: Callable[[], bool] = lambda: False  # whether this rank was asked to stop
        self.stopped = False  # whether any was, as of the last step: the same on all of them

    @property
    def first(self) -> bool:
        """Whether this one speaks and writes."""
        return self.rank == 0

    def own(self, bounds: Array) -> slice:
        """This rank's share."""
        return slice(int(bounds[self.rank]), int(bounds[self.rank + 1]))

    def stopping(self, stop: Callable[[], bool]) -> bool:
        """Whether to end after the step that was just made. Of several ranks what one was asked goes for all, and travels with their next step."""
        if self.count == 1:
            return stop()
        self.asked = stop
        return self.stopped

    # --- words ----------------------------------------------------------------------------------------------------

    def tell(self, name: str, text: str = "") -> None:
        """Let the other ranks know."""
        if self.count > 1:
            self._store.set(name, text)

    def hear(self, name: str) -> str:
        """What the first rank tells under this name, however long it takes. Raises Elsewhere if a rank has failed."""
        with _lost_rank():
            self._await(lambda: self._store.check([name]))
            return str(self._store.get(name).decode())

    def _await(self, there: Callable[[], bool]) -> None:
        while not there():
            if self._store.check(["failed"]):
                raise Elsewhere(stopped=self._store.get("failed") == b"stopped")
            time.sleep(LOOK_EVERY)

    def fail(self, stopped: bool) -> bool:
        """Whether this rank is the first that fails, and so the one to say why."""
        try:
            spoke = self._store.add("failures", 1) == 1
            if spoke:
                self._store.set("failed", "stopped" if stopped else "failed")
            return bool(spoke)
        except RuntimeError:
            return True

    def meet(self) -> None:
        """Wait until all ranks are there. Raises ConfigError if some do not come."""
        self._count_up("there", MEETING.total_seconds())
        found = self._store.add("there", 0)
        if found < self.count:
            raise ConfigError(f"only {found} of {self.count} processes came to train together in {MEETING}. Start all of them: torchrun does.")

    def part(self) -> None:
        """Say that nothing more will be asked; the first rank waits a little until all have said so."""
        with suppress(RuntimeError):
            self._count_up("left", FAREWELL if self.first else 0.0)

    def _count_up(self, name: str, most: float) -> None:
        begun = time.monotonic()
        self._store.add(name, 1)
        while time.monotonic() - begun < most and self._store.add(name, 0) < self.count:
            time.sleep(LOOK_EVERY / 4)

    def connect(self) -> None:
        """Make ready the ways of tensors: gloo for those of the processor, nccl for those of cards."""
        import torch.distributed as dist

        if self.count == 1:
            return
        with _lost_rank():
            self._store.add("begun", 1)
            self._await(lambda: self._store.add("begun", 0) >= self.count)  # whoever fails before is not waited for
        if dist.is_initialized():
            return
        loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
        if local_count() == self.count and loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)  # the name of this machine need not be known to itself
        backend = "cpu:gloo,cuda:nccl" if dist.is_nccl_available() else "gloo"
        with _lost_rank():
            dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.count, timeout=PATIENCE)
        self._connected = True

    def disconnect(self, failed: bool = False) -> None:
        """Close them. Cards are left as they are after a failure: one may wait for what will never come."""
        import torch.distributed as dist

        if self._connected and not (failed and dist.is_nccl_available()):
            self._connected = False
            dist.destroy_process_group()

    # --- tensors --------------------------------------------------------------------------------------------------

    def gather(self, rows: Tensor, bounds: Array) -> Tensor:
        """All rows [n, ...], of which each rank has its share."""
        import torch

        if self.count == 1:
            return rows
        sizes = np.diff(bounds)
        padded = rows.new_zeros((int(sizes.max(initial=0)), *rows.shape[1:]))
        padded[: len(rows)] = rows
        return torch.cat([part[:size] for part, size in zip(self._gather_equal(padded), sizes.tolist(), strict=True)])

    def _gather_equal(self, one: Tensor) -> list[Tensor]:
        import torch
        import torch.distributed as dist

        found = [torch.empty_like(one) for _ in range(self.count)]
        with _lost_rank():
            dist.all_gather(found, one.contiguous())
        return found

    def scatter(self, whole: Tensor, bounds: Array) -> Tensor:
        """The sum over ranks, in their order, of this rank's share of rows [n, d]: the way back of `gather` for gradients."""
        import torch.distributed as dist

        if self.count == 1:
            return whole
        own = self.own(bounds)
        size = own.stop - own.start
        parts = whole.new_empty((self.count * size, *whole.shape[1:]))
        with _lost_rank():
            dist.all_to_all_single(parts, whole.contiguous(), [size] * self.count, np.diff(bounds).tolist())
        total = parts[:size].clone()
        for number in range(1, self.count):
            total += parts[number * size : (number + 1) * size]
        return total

    def add(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place: the same bits on all of them."""
        import torch.distributed as dist

        if self.count > 1:
            with _lost_rank():
                dist.all_reduce(values)
        return values

    def gather_all(self, values: Tensor) -> Tensor:
        """The values [n] of all ranks, in their order; how many each has, the others need not know."""
        import torch

        if self.count == 1:
            return values
        sizes = self.add(torch.tensor([len(values) if rank == self.rank else 0 for rank in range(self.count)]))
        return self.gather(values, np.append(0, np.cumsum(sizes.numpy())))

    def gather_packed(self, tensors: Sequence[Tensor], sizes: Array) -> list[list[Tensor]]:
        """The tensors of each rank, which differ in length alone: by rank, each with this many rows, int64 [ranks, tensors].

        They travel as bytes and in one piece; those of wider types must come first.
        """
        import torch

        lengths = sizes * np.array([int(np.prod(one.shape[1:])) * one.element_size() for one in tensors])
        packed = torch.cat([one.contiguous().reshape(-1).view(torch.uint8) for one in tensors])
        padded = packed.new_zeros(int(lengths.sum(1).max(initial=0)))
        padded[: len(packed)] = packed
        found = []
        for rank, whole in enumerate(self._gather_equal(padded)):
            parts = whole[: int(lengths[rank].sum())].split(lengths[rank].tolist())  # type: ignore[no-untyped-call]
            shapes = [(int(size), *one.shape[1:]) for size, one in zip(sizes[rank], tensors, strict=True)]
            found.append([part.view(one.dtype).reshape(shape) for part, one, shape in zip(parts, tensors, shapes, strict=True)])
        return found

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        import torch

        return flag if self.count == 1 else bool(self.add(torch.tensor(float(flag))) > 0)

    def agreed(self, values: Sequence[float]) -> list[float]:
        """The numbers of the first rank."""
        import torch
        import torch.distributed as dist

        if self.count == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64)
        with _lost_rank():
            dist.broadcast(told, 0)
        return [float(value) for value in told]


ALONE = Team()


@contextmanager
def _lost_rank() -> Iterator[None]:
    """Say in our words that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise _gone(error) from None


def _gone(error: Exception) -> TwotowerError:
    told = str(error).splitlines()[0][:200]
    return TwotowerError(
        f"another process that trained along is gone, killed perhaps, as for want of memory ({told}). What was saved goes on with --resume."
    )


@contextmanager
def together() -> Iterator[Team]:
    """The ranks that train one model while this lasts: those that torchrun started, or this process alone.

    An error on one of them ends all: the first to fail raises it, the others raise Elsewhere.
    """
    if not several():
        yield Team()
        return
    team = _met()
    try:
        yield team
    except BaseException as error:
        spoke = not isinstance(error, Elsewhere) and team.fail(_is_stop(error))
        # The others may wait for tensors: that their ways are closed is what they notice.
        team.disconnect(failed=True)
        team.part()
        if spoke or isinstance(error, Elsewhere):
            raise
        raise Elsewhere(stopped=_is_stop(error)) from error
    team.disconnect()
    team.part()


def _is_stop(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Stopped"


def _met() -> Team:
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if not dist.is_available():
        raise ConfigError("this torch was built without torch.distributed, so one process must do. Start it without torchrun.")
    try:
        store, rank, count = next(rendezvous("env://", timeout=MEETING))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the processes that are to train together do not find each other: {str(error).splitlines()[0]}. Start them with torchrun."
        ) from None
    # A name for each meeting: a second training of these processes must not hear the words of the first.
    team = Team(rank, count, PrefixStore(f"twotower/{next(_MEETINGS)}", store))
    team.meet()
    return team
