"""One step of training, over and over: rows, losses, gradients, update. The loop around it is in `loop.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Examples
from pellucid.core.capabilities import Training, Turn
from pellucid.core.codec import Bridge, Identity
from pellucid.core.errors import BadBundle, BadInput, NonFiniteLoss
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.training.allocator import keep_freed_memory
from pellucid.training.checkpoint import State, fit_tensors
from pellucid.training.distributed import Strategy, full, like, spread, team
from pellucid.training.ema import Average
from pellucid.training.optim import clip, gradient_norm, optimizer_for, update
from pellucid.training.order import Order
from pellucid.training.precision import autocast
from pellucid.training.schedule import Schedule
from pellucid.training.step import Step

__all__ = ["Walk", "encoded", "memory_errors", "put_weights"]

ADAM, MOMENTUM = {"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}
SLOTS = {"adam": [ADAM], "sgd": [MOMENTUM], "muon": [ADAM, MOMENTUM]}  # what an optimizer may hold of a parameter


class Walk:
    """Everything that one step of training touches; a context, since it borrows the parameters' gradient flags.

    Args:
        step: the engine and its turns, on the run's device.
        examples: rows in the codec's space; `bridge` takes them to the engine's, with noise of each step.

    Randomness of step k: batch k of `Order(seed)`, noise `Rows(seed, ids).fork("train", k)` where an id met
    twice in one batch is shifted (`Order.noise_ids`), and torch's own generator (dropout masks) seeded from
    `Rows(seed).fork("masks", k)`. So a resumed run needs no generator's state.
    """

    def __init__(
        self,
        step: Step,
        examples: Examples,
        settings: Training,
        seed: int,
        run: Run,
        bridge: Bridge | None = None,
        strategy: Strategy = "ddp",
    ) -> None:
        self.step, self.examples, self.settings, self.run = step, examples, settings, run
        self.bridge, self.team = bridge, team()
        self.order = Order(seed, len(examples), settings.batch)
        self.forward = spread(step, strategy)
        self.sharded = self.team.size > 1 and strategy == "fsdp2"
        self.players = [_Player(turn, step.named(i), settings) for i, turn in enumerate(step.turns)]
        moved = {name: p for player in self.players for name, p in player.parameters.items()}
        self.average = None if settings.ema is None else Average(moved, settings.ema, settings.ema_ramp)
        self._masks = Rows(seed, torch.zeros(1, dtype=torch.int64)).fork("masks", self.team.rank)
        self._turn: int | None = None
        self._key = Rows(seed, torch.zeros(0, dtype=torch.int64)).key  # hashed once, not at every step

    def __enter__(self) -> Walk:
        self._flags = [(p, p.requires_grad) for p in self.step.parameters()]
        self._mode = self.step.training
        self.step.train()
        keep_freed_memory()
        # torch's generator is borrowed for the whole walk (putting it back takes longer than a small step)
        self._generator = self._masks.to(self.run.device).seeding()
        self._generator.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._generator.__exit__(None, None, None)
        self.step.train(self._mode)
        for p, flag in self._flags:
            p.requires_grad_(flag)
            p.grad = None

    def batch(self, k: int) -> tuple[Batch, Rows]:
        """This process's rows of batch k and their noise."""
        ids = self.order.ids(k)
        noise = self.order.noise_ids(ids) if _repeats(self.order, k) else ids
        if self.team.size > 1:
            part = self.team.part(len(ids))
            ids, noise = ids[part], noise[part]
        rows = Rows(self.order.seed, noise, self._key).fork("train", k)
        return encoded(self.examples, ids, rows, self.bridge, self.run.device)

    def move(self, k: int, schedule: Schedule) -> dict[str, float]:
        """Take step k; gives the loss that each turn went down on.

        Raises NonFiniteLoss before anything is updated by a number that is not finite.
        """
        batch, rows = self.batch(k)
        high, low = self._masks.fork("step", k).key
        torch.default_generator.manual_seed(high << 32 | low)
        if self.run.device != "cpu":
            torch.cuda.manual_seed(high << 32 | low)
        factor, values = schedule.factor(k), {}
        for i, player in enumerate(self.players):
            if k % player.turn.every == 0:
                self._let_move(i)
                values[player.turn.name] = self._take(i, player, batch, rows, k, factor)
        if self.average is not None:
            self.average.update(k)
        return values

    def forget(self) -> None:
        """Drop the gradients, which every step makes anew: room for a copy of the weights."""
        for p in self.step.parameters():
            p.grad = None

    def _let_move(self, turn: int) -> None:
        """Gradients reach this turn's parameters only."""
        if self._turn != turn:
            wanted = {id(p) for p in self.players[turn].parameters.values()}
            for p in self.step.parameters():
                p.requires_grad_(id(p) in wanted)
            self._turn = turn

    def _take(self, i: int, player: _Player, batch: Batch, rows: Rows, k: int, factor: float) -> float:
        for p in player.parameters.values():
            p.grad = None
        with autocast(self.run):
            losses, penalty = self.forward(i, batch, rows)
        loss = self._mean(losses, batch)
        if player.turn.penalty is not None:
            loss = loss + penalty
        loss.backward()
        norm = gradient_norm(player.parameters)
        total = self.team.sum(loss.detach())
        if total.is_cuda:  # both numbers in one transfer: a GPU is waited for once a turn
            value, size = torch.stack([total.double(), norm.double()]).tolist()
        else:
            value, size = total.item(), norm.item()
        value /= self.team.size
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"the loss of turn '{player.turn.name}' is {value} at step {k}{self._rows_of(losses, batch)}"
            )
        if not math.isfinite(size):
            raise NonFiniteLoss(
                f"the gradient of {_first_bad({n: p.grad for n, p in player.parameters.items()})} "
                f"in turn '{player.turn.name}' is not finite at step {k}"
            )
        if self.settings.clip is not None and size > self.settings.clip:
            clip(player.parameters, self.settings.clip, norm)
        update(player.optimizer, self.settings.rate * player.turn.rate * factor)
        return float(value)

    def _rows_of(self, losses: Tensor, batch: Batch) -> str:
        """Where a loss went wrong: in rows of its own, or everywhere because of the weights."""
        bad = ~torch.isfinite(losses.detach())
        count = int(bad.sum())
        if count == 0:
            return ", through its penalty or the rows of another process" if self.team.size > 1 else ", in its penalty"
        if count < len(losses):
            ids = ", ".join(str(i) for i in batch.ids[bad][:5].tolist())
            return f" in {count} of {len(losses)} rows (items {ids}{', ...' if count > 5 else ''})"
        # infinity may be meant (a mask), not-a-number never is
        nan = [name for name, t in self.step.engine.state_dict().items() if bool(torch.isnan(t).any())]
        return f" in all {count} rows" + (f", since '{nan[0]}' is not a number" if nan else "")

    def _mean(self, losses: Tensor, batch: Batch) -> Tensor:
        """Weighted mean over the whole batch; times the team's size in a team, whose gradients are averaged later."""
        if self.team.size == 1:
            return losses.mean() if batch.weight is None else (losses * batch.weight).sum() / batch.weight.sum()
        if batch.weight is None:
            return losses.sum() * (self.team.size / self.order.batch)
        return (losses * batch.weight).sum() * (self.team.size / self.team.sum(batch.weight.sum()))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training goes on from; in a team, gathered by all processes together.

        Raises NonFiniteLoss if a weight is not a finite number: such a state is never saved.
        """
        found = {f"weights/{k}": full(v) for k, v in self.step.engine.state_dict().items()}
        found |= {f"extra/{k}": full(v) for k, v in self.step.extra.state_dict().items()}
        if self.average is not None:
            found |= {f"ema/{k}": full(v) for k, v in self.average.values.items()}
        learned = {k: full(p.detach()) for player in self.players for k, p in player.parameters.items()}
        if not all(bool(torch.isfinite(p).all()) for p in learned.values()):
            raise NonFiniteLoss(f"the weights of {_first_bad(learned)} are not finite")
        for player in self.players:
            for name, p in player.parameters.items():
                for slot, value in player.optimizer.state.get(p, {}).items():
                    if isinstance(value, Tensor):
                        found[f"optimizer/{player.turn.name}/{name}/{slot}"] = full(value)
        return found

    def restore(self, state: State) -> None:
        """Averages and optimizers as they were; the weights are put back by `put_weights` before."""
        if self.average is not None:
            found = state.part("ema")
            fit_tensors(found, {k: _whole(v) for k, v in self.average.values.items()}, "averages")
            self.average.values = {k: like(found[k], v) for k, v in self.average.values.items()}
        for player in self.players:
            stored: dict[str, dict[str, Tensor]] = {}
            for name, tensor in state.part(f"optimizer/{player.turn.name}").items():
                owner, _, slot = name.rpartition("/")
                stored.setdefault(owner, {})[slot] = tensor
            for name, slots in stored.items():
                player.restore(name, slots)


class _Player:
    """A turn, its parameters by name, and the optimizer that moves them."""

    def __init__(self, turn: Turn, parameters: dict[str, nn.Parameter], settings: Training) -> None:
        self.turn, self.parameters, self.slots = turn, parameters, SLOTS[settings.optimizer]
        self.optimizer = optimizer_for(turn, parameters, settings)

    def restore(self, name: str, slots: Mapping[str, Tensor]) -> None:
        p = self.parameters.get(name)
        if p is None or set(slots) not in self.slots:
            raise BadBundle(
                f"the checkpoint's optimizer holds {sorted(slots)} of '{name}' in turn '{self.turn.name}'",
                accepted=f"{' or '.join(str(sorted(s)) for s in self.slots)} of {', '.join(self.parameters)}",
            )
        for slot, tensor in slots.items():
            if tensor.shape != (() if slot == "step" else p.shape):
                raise BadBundle(
                    f"'{slot}' of '{name}' in the checkpoint's optimizer has shape {tuple(tensor.shape)}",
                    accepted=str(tuple(p.shape)),
                )
        self.optimizer.state[p] = {
            slot: tensor.to(p.device) if slot == "step" else like(tensor, p.detach()) for slot, tensor in slots.items()
        }


def encoded(examples: Examples, ids: Tensor, rows: Rows, bridge: Bridge | None, device: str) -> tuple[Batch, Rows]:
    """Rows of the data in the engine's space, on the device, and their noise. Bridges work on the CPU."""
    batch = examples.take(ids)
    if bridge is not None and not isinstance(bridge, Identity):
        with torch.no_grad():
            batch = batch.with_x(bridge.there(batch.x, rows.fork("bridge")))
    return (batch, rows) if device == "cpu" else (batch.to(device), rows.to(device))


@contextmanager
def memory_errors(settings: Training) -> Iterator[None]:
    """Turn "out of memory" into one sentence that says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        raise BadInput(
            f"a batch of {settings.batch} does not fit into memory",
            next=f"Take a smaller one (batch={max(1, settings.batch // 2)}), a smaller model, or smaller items.",
        ) from error


def put_weights(step: Step, state: State) -> None:
    """Load a checkpoint's weights into the engine, after a check of names, shapes and dtypes."""
    for group, module in (("weights", step.engine), ("extra", step.extra)):
        found = state.part(group)
        fit_tensors(found, module.state_dict(), group)
        module.load_state_dict(found)


def _repeats(order: Order, k: int) -> bool:
    """Can batch k hold an item twice? Only where it runs across the end of an epoch."""
    return k * order.batch // order.items != ((k + 1) * order.batch - 1) // order.items


def _whole(tensor: Tensor) -> Tensor:
    """A stand-in of the whole tensor's shape (a sharded one says its whole shape too)."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _first_bad(tensors: Mapping[str, Tensor | None]) -> str:
    bad = [name for name, t in tensors.items() if t is not None and not bool(torch.isfinite(full(t)).all())]
    return f"'{bad[0]}'" if bad else "all parameters together"
