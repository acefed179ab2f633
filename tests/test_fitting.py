"""From data and a budget to a model on disk: stopped, killed or short of disk, a run goes on to the very same model."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from pellucid.catalog import families
from pellucid.core.batch import Batch
from pellucid.core.capabilities import Grows, Objective, Training, Turn
from pellucid.core.errors import BadBundle, BadInput, MissingCapability, NonFiniteLoss, Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Alarmed, Checkpointed, Event, Noticed, Planned, Previewed, Run
from pellucid.domains.bridges.latent import LatentBridge
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.pictures import Pictures
from pellucid.domains.read import read
from pellucid.families.gan import GAN
from pellucid.families.ngram import NGram
from pellucid.families.realnvp import RealNVP
from pellucid.families.vae import VAE
from pellucid.fitting import data_of, fit, resume, split
from pellucid.model import Draw, Fitted, load
from pellucid.training.journal import read_losses

SMALL = VAE(latent=3, width=4, depth=1)
FLOW = RealNVP(width=8, depth=1)


def pictures(n: int = 24, seed: int = 0) -> Pictures:
    draw = np.random.default_rng(seed)
    return Pictures(
        pixels=draw.integers(0, 256, (n, 4, 6, 1)).astype(np.uint8), labels=tuple("ab"[i % 2] for i in range(n))
    )


def rows(n: int = 40, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "height": draw.normal(170, 9, n).round(1),
            "word": draw.choice(["x", "y"], n),
            "count": draw.integers(0, 200, n),
        }
    )


@pytest.fixture(scope="module")
def base() -> Fitted:
    return fit(pictures(), SMALL, steps=2, seed=1)


@dataclass(frozen=True)
class Spread(Objective):
    """Pull every weight towards that of the base, or towards 0."""

    def turns(self, engine: nn.Module, base: nn.Module | None) -> tuple[Turn, ...]:
        goal = [torch.zeros_like(p) for p in engine.parameters()] if base is None else list(base.parameters())

        def losses(batch: Batch, rows: Rows) -> Tensor:
            far = sum((p - g.detach()).square().sum() for p, g in zip(engine.parameters(), goal, strict=True))
            return torch.as_tensor(far).expand(len(batch))

        return (Turn("spread", tuple(engine.parameters()), losses),)


def same_run(left: Path, right: Path) -> None:
    """Two finished runs with the same weights, losses and recipe, bit for bit."""
    for name in ("recipe.json", "codec.json", "codec.safetensors", *sorted(_weights(left))):
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    assert _weights(left) == _weights(right)
    assert read_losses(left / "events.jsonl") == read_losses(right / "events.jsonl")
    assert (
        json.loads((left / "outcome.json").read_text()).keys()
        == json.loads((right / "outcome.json").read_text()).keys()
    )
    assert torch.equal(load(left).sample(4, seed=3).x, load(right).sample(4, seed=3).x)


def _weights(folder: Path) -> set[str]:
    return {f"weights/{p.name}" for p in (folder / "weights").iterdir()}


def stop_at(step: int, signum: int = 2) -> Run:
    """A run that is asked to stop, as Ctrl-C asks, once a checkpoint of this step is there."""
    run = Run()

    def listen(event: Event) -> None:
        if isinstance(event, Checkpointed) and event.step >= step:
            run.stop(signum)

    run.listeners.append(listen)
    return run


# -------------------------------------------------------------------------------------- before anything is written


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"minutes": -1}, "minutes is -1. Accepted: a finite number above 0"),
        ({"minutes": 0}, "minutes is 0"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"minutes": float("inf")}, "minutes is inf"),
        ({"minutes": "5"}, "minutes is '5'"),
        ({"steps": 0}, "steps is 0. Accepted: a whole number of at least 1"),
        ({"steps": -5}, "steps is -5"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": True}, "steps is True"),
        ({"steps": 1, "minutes": 1}, "both minutes=1 and steps=1 were given"),
        ({"steps": 1, "seed": 0.5}, "seed is 0.5"),
        ({"held_out": 1.0}, "held_out is 1.0. Accepted: a share"),
        ({"held_out": -0.1}, "held_out is -0.1"),
        ({"held_out": 0.99}, "leaves none of 24 items"),
        ({"precision": "float16"}, "precision is 'float16'. Accepted: auto, float32, bfloat16"),
        ({"device": "gpu"}, "device is 'gpu'. Accepted: auto, cpu, cuda"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"family": "vea"}, "family is 'vea'.*Did you mean 'vae'"),
        ({"family": 3}, "family is 3. Accepted: a name or a Family object"),
        ({"family": "vae", "settings": {"latnt": 2}}, "'latnt' is no setting of VAE.*Did you mean 'latent'"),
        ({"family": "vae", "settings": {"latent": 0}}, "latent is 0"),
        ({"family": "vae", "settings": {"latent": "many"}}, "VAE.latent is 'many'. Accepted: a whole number"),
        ({"settings": {"latent": 2}}, "settings came with a Family object"),
        ({"target": "class"}, "target came with data that was read already"),
        ({"size": 8}, "size came with data"),
        ({"data": [1, 2]}, "data is a list"),
        ({"data": "nowhere/at/all"}, "there is nothing at 'nowhere/at/all'"),
        ({"data": pictures(9)}, "has 9 pictures. Accepted: 10 or more. A part is held out"),
        ({"data": read_table(rows(9))}, "has 9 rows. Accepted: 10 or more"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path, words: dict[str, Any], match: str) -> None:
    words = {"data": pictures(), "family": SMALL, "out": tmp_path / "run", **words}
    with pytest.raises(BadInput, match=match) as caught:
        fit(**words)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="torch sees no GPU here. Accepted: auto, cpu"):
        fit(pictures(), SMALL, device="cuda", out=tmp_path / "run")


def test_a_family_that_cannot_take_the_data_says_why_and_which_can(tmp_path: Path) -> None:
    spaced = pictures()
    wide = replace(spaced, pixels=np.zeros((24, 300, 300, 1), np.uint8))
    with pytest.raises(
        BadInput, match="family 'gan' cannot take this data. Accepted: families that can: .*90000 numbers"
    ):
        fit(wide, GAN(), steps=1, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(pictures(), SMALL, steps=1, out=out)
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(BadInput, match=r"exists already. Choose another folder, or add --force"):
        fit(pictures(), SMALL, steps=1, out=out)
    assert (out / "manifest.json").read_bytes() == before
    fit(pictures(), SMALL, steps=2, out=out, force=True)
    assert load(out).recipe["steps_done"] == 2
    for name in ("photos", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"not a run folder: it holds 'a.png'. Only runs are replaced"):
        fit(pictures(), SMALL, steps=1, out=tmp_path / "photos", force=True)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["a.png"]
    fit(pictures(), SMALL, steps=1, out=tmp_path / "empty")
    with pytest.raises(BadInput, match="is a file, so"):
        fit(pictures(), SMALL, steps=1, out=out / "recipe.json" / "run")


def test_splits_are_parts_and_depend_on_nothing_else() -> None:
    for n, share, seed in itertools.product((10, 57), (0.0, 0.1, 0.5), (0, 3, -3, 2**70)):
        kept, aside = split(n, share, seed)
        assert sorted([*kept, *aside]) == list(range(n))
        assert len(aside) == round(n * share)
        assert np.array_equal(kept, split(n, share, seed)[0])
    assert not np.array_equal(split(57, 0.5, 3)[0], split(57, 0.5, -3)[0])


def test_nothing_may_be_held_out() -> None:
    model = fit(pictures(), SMALL, steps=1, held_out=0.0)
    assert model.recipe["held_out"] == 0.0


# ------------------------------------------------------------------------------------------------ what a run holds


def test_a_finished_run_holds_what_it_lists_and_nothing_else(tmp_path: Path) -> None:
    rows().to_csv(tmp_path / "t.csv", index=False)
    told: list[Event] = []
    model = fit(
        tmp_path / "t.csv", FLOW, steps=3, out=tmp_path / "run", target="word", run=Run(listeners=[told.append])
    )
    names = sorted(p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("*") if p.is_file())
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert names == sorted([*manifest["files"], "manifest.json"])
    assert names == sorted(
        [
            *("codec.json", "codec.safetensors", "events.jsonl", "manifest.json", "outcome.json", "recipe.json"),
            *("source.json", "weights/engine.safetensors", "weights/raw.safetensors"),
        ]
    )
    assert manifest["data"]["fingerprint"] == model.recipe["data"]["fingerprint"]
    assert manifest["versions"].keys() == {"pellucid", "torch", "numpy", "python"}
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (recipe["family"], recipe["steps"], recipe["threads"]) == ("flow", 3, model.recipe["threads"])
    assert recipe["training"]["batch"] > 0
    assert any(isinstance(e, Noticed) and e.topic == "kind" for e in told)
    assert len(read_losses(tmp_path / "run" / "events.jsonl")) == 3
    assert data_of(tmp_path / "run").fingerprint() == manifest["data"]["fingerprint"]
    moved = (tmp_path / "t.csv").rename(tmp_path / "moved.csv")
    with pytest.raises(BadInput, match=r"no longer at .*--data PATH"):
        data_of(tmp_path / "run")
    assert len(data_of(tmp_path / "run", moved)) == 40


def test_the_same_seed_gives_the_same_model() -> None:
    one, two, other = (fit(pictures(), SMALL, steps=2, seed=s) for s in (4, 4, 5))
    a, b, c = (m.engine.state_dict() for m in (one, two, other))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_minutes_become_steps_and_the_plan_is_said() -> None:
    told: list[Event] = []
    model = fit(pictures(), SMALL, minutes=0.01, run=Run(listeners=[told.append]))
    plans = [e for e in told if isinstance(e, Planned)]
    assert len(plans) == 1
    assert model.recipe["steps"] == plans[0].steps >= model.recipe["steps_done"] >= 1
    assert model.recipe["minutes"] == 0.01
    told.clear()
    plain = fit(pictures(), SMALL, training=Training(steps=3), run=Run(listeners=[told.append]))
    assert [e.steps for e in told if isinstance(e, Planned)] == [plain.recipe["steps_done"]] == [3]
    told.clear()
    fit(pictures(), SMALL, steps=3, run=Run(listeners=[told.append]))
    assert not [e for e in told if isinstance(e, Planned)], "who names the steps does not wait for a plan"


def test_a_data_frame_and_an_array_are_read_on_the_way() -> None:
    assert fit(rows(), FLOW, steps=1, target="word").codec.conditions.keys() == {"word"}
    assert fit(pictures().pixels, SMALL, steps=1).recipe["data"]["items"] == 24


# --------------------------------------------------------------------------------------------------- stop and go on

MAKES: dict[str, Callable[..., Fitted]] = {
    "pictures": lambda base, **k: fit(pictures(), SMALL, seed=2, **k),
    "table": lambda base, **k: fit(read_table(rows(), target="word"), FLOW, seed=2, **k),
    "two players": lambda base, **k: fit(pictures(), GAN(latent=3, width=4, depth=1), seed=2, **k),
    "counts": lambda base, **k: fit(read_table(rows()), NGram(order=2), seed=2, **k),
    "latent": lambda base, **k: fit(pictures(), FLOW, seed=2, through=base, **k),
    "continued": lambda base, **k: fit(pictures(seed=1), SMALL, seed=2, base=base, **k),
}
DATA: dict[str, Pictures | TableData] = {
    "table": read_table(rows(), target="word"),
    "counts": read_table(rows()),
    "continued": pictures(seed=1),
}


@pytest.mark.parametrize("make", MAKES)
def test_a_stopped_run_goes_on_to_the_same_bits(make: str, base: Fitted, tmp_path: Path) -> None:
    words = {"steps": 6, "checkpoint_every": 2}
    MAKES[make](base, out=tmp_path / "whole", **words)
    with pytest.raises(Stopped, match=rf"stopped after .*Go on with: pellucid fit --resume {tmp_path}/part") as caught:
        MAKES[make](base, out=tmp_path / "part", run=stop_at(3, signum=15), **words)
    assert caught.value.exit_code == 143
    with pytest.raises(BadInput, match=rf"has not finished. Resume it: pellucid fit --resume {tmp_path}/part"):
        load(tmp_path / "part")
    with pytest.raises(BadInput, match="Resume it with `pellucid fit --resume"):
        MAKES[make](base, out=tmp_path / "part", **words)
    told: list[Event] = []
    model = resume(
        tmp_path / "part", data=DATA.get(make, pictures()), checkpoint_every=3, run=Run(listeners=[told.append])
    )
    same_run(tmp_path / "whole", tmp_path / "part")
    assert torch.equal(model.sample(4, seed=3).x, load(tmp_path / "whole").sample(4, seed=3).x)
    assert not [e for e in told if isinstance(e, Noticed) and e.topic in ("versions", "arithmetic")]
    assert resume(tmp_path / "part", run=Run(listeners=[told.append])).recipe == load(tmp_path / "part").recipe
    assert [e.text for e in told if isinstance(e, Noticed) and e.topic != "changed"] == [
        "The run 'part' is finished; there is nothing left to do."
    ]


@pytest.mark.parametrize("make", ["continued", "latent"])
def test_a_run_stopped_before_its_first_step_goes_on(make: str, base: Fitted, tmp_path: Path) -> None:
    MAKES[make](base, out=tmp_path / "whole", steps=2)
    run = Run()
    run.stop()
    with pytest.raises(Stopped, match="after 0 of 2 steps"):
        MAKES[make](base, out=tmp_path / "part", run=run, steps=2)
    for path in (tmp_path / "part" / "checkpoints").iterdir():
        path.unlink()  # killed a moment earlier, there would be none
    resume(tmp_path / "part", data=DATA.get(make, pictures()))
    same_run(tmp_path / "whole", tmp_path / "part")


def test_resume_refuses_other_data_and_takes_moved_data(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows().to_csv(path, index=False)
    with pytest.raises(Stopped):
        fit(path, FLOW, steps=4, checkpoint_every=1, out=tmp_path / "run", run=stop_at(2))
    rows(seed=1).to_csv(path, index=False)
    with pytest.raises(BadInput, match="the data of 'run' is not what it was.*Put the original data back, or fit anew"):
        resume(tmp_path / "run")
    path.unlink()
    with pytest.raises(BadInput, match=r"no longer at .*t.csv'. Say where it is now: --data PATH"):
        resume(tmp_path / "run")
    rows().to_csv(tmp_path / "moved.csv", index=False)
    assert resume(tmp_path / "run", data=tmp_path / "moved.csv").recipe["steps_done"] == 4


def test_data_that_came_without_a_path_must_be_given_again(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(rows(), FLOW, steps=4, checkpoint_every=1, out=tmp_path / "run", run=stop_at(2))
    with pytest.raises(
        BadInput, match="was not started from a path.*--data PATH on the command line, data=... in Python"
    ):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", data=read_table(rows())).recipe["steps_done"] == 4


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadInput, match="holds no run to resume"):
            resume(path)
    with pytest.raises(BadInput, match="checkpoint_every is 0"):
        resume(tmp_path, checkpoint_every=0)


@pytest.mark.parametrize("name", ["recipe.json", "codec.json", "codec.safetensors", "resume.json", "start.safetensors"])
def test_a_damaged_setup_is_not_resumed(name: str, base: Fitted, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        MAKES["continued"](base, out=tmp_path / "run", steps=4, checkpoint_every=1, run=stop_at(2))
    path = tmp_path / "run" / name
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], bytes([whole[0] ^ 1]) + whole[1:]):
        path.write_bytes(data)
        with pytest.raises(BadBundle) as caught:
            resume(tmp_path / "run", data=DATA["continued"])
        assert caught.value.exit_code == 4
    path.write_bytes(whole)
    assert resume(tmp_path / "run", data=DATA["continued"]).recipe["steps_done"] == 4


def test_other_versions_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped):
        fit(pictures(), SMALL, steps=3, checkpoint_every=1, out=tmp_path / "run", run=stop_at(1))
    monkeypatch.setattr("pellucid.fitting.versions", lambda: {"torch": "9"})
    told: list[Event] = []
    resume(tmp_path / "run", data=pictures(), run=Run(listeners=[told.append]))
    assert any(isinstance(e, Noticed) and e.topic == "versions" for e in told)


# ------------------------------------------------------------------------------------------------- killed at any commit


class Killed(BaseException):
    """Nothing of ours catches it and goes on."""


def commits(monkeypatch: pytest.MonkeyPatch, last: int | None) -> Iterator[int]:
    """Count what is committed to disk (renames and removals); die instead of the one after `last`."""
    count = itertools.count(1)

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit(*arguments: Any, **named: Any) -> Any:
            if next(count) > (last if last is not None else 10**9):
                raise Killed
            return real(*arguments, **named)

        return commit

    monkeypatch.setattr(os, "replace", wrap(os.replace))
    monkeypatch.setattr("shutil.rmtree", wrap(__import__("shutil").rmtree))
    monkeypatch.setattr(Path, "unlink", wrap(Path.unlink))
    return count


@pytest.mark.parametrize("make", ["pictures", "counts", "continued"])
def test_a_kill_before_any_commit_leaves_a_run_that_goes_on(
    make: str, base: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"steps": 2, "checkpoint_every": 1}
    count = commits(monkeypatch, None)
    MAKES[make](base, out=tmp_path / "whole", **words)
    total = next(count) - 1
    monkeypatch.undo()
    setup = 5 if make == "continued" else 4  # before them there is nothing to resume
    places = range(setup, total) if total < 16 else [setup, setup + 1, *range(total - 11, total)]
    for last in places:
        out = tmp_path / f"killed {last}"
        commits(monkeypatch, last)
        with pytest.raises(Killed):
            MAKES[make](base, out=out, **words)
        monkeypatch.undo()
        if not (out / "manifest.json").is_file() or (out / "resume.json").is_file():
            with pytest.raises(BadInput, match="pellucid fit --resume"):
                load(out)
        resume(out, data=DATA.get(make, pictures()))
        same_run(tmp_path / "whole", out)
        assert sorted(p.name for p in out.rglob("*") if p.is_file()) == sorted(
            p.name for p in (tmp_path / "whole").rglob("*") if p.is_file()
        )


def test_a_kill_while_setting_up_leaves_nothing_or_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(pictures(), SMALL, steps=1, out=tmp_path / "old")
    old = {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir() if p.is_file()}
    real = os.replace
    for last, name in itertools.product(range(4), ("new", "old")):
        calls = itertools.count()

        def die(a: Any, b: Any, last: int = last, calls: Iterator[int] = calls) -> None:
            if next(calls) >= last:
                raise OSError(28, "No space left on device")
            real(a, b)

        monkeypatch.setattr(os, "replace", die)
        with pytest.raises(BadInput, match="the disk is full"):
            fit(pictures(seed=3), SMALL, steps=1, out=tmp_path / name, force=True)
        monkeypatch.undo()
        assert {p.name for p in tmp_path.iterdir()} == {"old"}
        assert {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir() if p.is_file()} == old
    assert load(tmp_path / "old").recipe["steps_done"] == 1


def test_a_disk_that_fills_while_training_keeps_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: dict[str, Any] = {"steps": 6, "checkpoint_every": 2, "seed": 2}
    fit(pictures(), SMALL, out=tmp_path / "whole", **words)
    real, full = os.fsync, itertools.count()

    def sync(handle: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}") if os.path.exists("/proc/self/fd") else ""
        if "checkpoints" in name and name.endswith(".tmp") and next(full) >= 2:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(BadInput, match="the disk is full while saving") as caught:
        fit(pictures(), SMALL, out=tmp_path / "run", **words)
    assert caught.value.exit_code == 2
    monkeypatch.undo()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    resume(tmp_path / "run", data=pictures())
    same_run(tmp_path / "whole", tmp_path / "run")


# --------------------------------------------------------------------------------------------- base, through, objective


def test_a_base_is_where_training_starts(base: Fitted, tmp_path: Path) -> None:
    still = Training(rate=1e-12, ema=None)
    on = fit(pictures(seed=1), SMALL, base=base, training=still, steps=1, out=tmp_path / "run")
    away = fit(pictures(seed=1), SMALL, training=still, steps=1)
    for name, weight in base.engine.state_dict().items():
        assert torch.allclose(on.engine.state_dict()[name], weight, atol=1e-6)
    assert not all(torch.allclose(away.engine.state_dict()[k], w) for k, w in base.engine.state_dict().items())
    assert on.recipe["base"]["family"] == "vae"
    assert len(on.recipe["base"]["weights"]) == 64
    assert load(tmp_path / "run").recipe["base"] == on.recipe["base"]
    named = fit(pictures(), "vae", base=base, settings={"beta": 2.0}, steps=1)
    assert named.family == replace(SMALL, beta=2.0), "settings that were not named are those of the base"


def test_counts_go_on_from_counts() -> None:
    first = fit(read_table(rows()), NGram(order=2))
    on = fit(read_table(rows(seed=1)), NGram(order=2), base=first)
    total = lambda m: int(m.engine.tables()["counts"].sum())  # noqa: E731
    assert total(on) == 2 * total(first)


def test_a_base_must_fit(base: Fitted) -> None:
    with pytest.raises(BadInput, match="the family is 'flow' but the model to go on from is 'vae'"):
        fit(pictures(), FLOW, base=base, steps=1)
    with pytest.raises(BadInput, match="both base and through"):
        fit(pictures(), SMALL, base=base, through=base, steps=1)
    with pytest.raises(BadInput, match="the data is of kind table. Accepted: images"):
        fit(read_table(rows()), SMALL, base=base, steps=1)
    with pytest.raises(BadInput, match="Accepted: .* as in training"):
        fit(replace(pictures(), pixels=np.zeros((24, 5, 5, 1), np.uint8)), SMALL, base=base, steps=1)


def test_a_model_in_the_latent_space_of_another(base: Fitted, tmp_path: Path) -> None:
    model = fit(pictures(), FLOW, through=base, steps=2, seed=3, out=tmp_path / "run")
    assert isinstance(model.bridge, LatentBridge)
    assert model.codec is base.codec
    draw = model.sample(5, seed=1)
    assert isinstance(draw.items, Pictures)
    again = load(tmp_path / "run")
    assert torch.equal(again.sample(5, seed=1).x, draw.x)
    on = fit(pictures(), FLOW, base=again, steps=1, out=tmp_path / "on")
    assert torch.equal(load(tmp_path / "on").sample(5).x, on.sample(5).x)
    assert load(tmp_path / "on").recipe["through"] == model.recipe["through"]


def test_latent_spaces_of_latent_spaces(base: Fitted, tmp_path: Path) -> None:
    """A model through a model through a bridge: each layer is found again in its place."""
    lower = fit(pictures(), RealNVP(width=8, depth=1), steps=1)  # over dequantised pixels
    assert lower.bridge.name == "dequantise"
    middle = fit(pictures(), VAE(latent=2, width=8, depth=1), through=lower, steps=1)
    upper = fit(pictures(), FLOW, through=middle, steps=1, out=tmp_path / "run")
    assert torch.equal(load(tmp_path / "run").sample(3).x, upper.sample(3).x)


def test_what_cannot_carry_another_model_says_what_can(base: Fitted) -> None:
    counts = fit(read_table(rows()), NGram(order=2))
    with pytest.raises(MissingCapability, match="'ngram' cannot carry another model.*encodes and decodes: vae"):
        fit(read_table(rows()), FLOW, through=counts, steps=1)
    with pytest.raises(BadInput, match="family 'ngram' cannot take the latent vectors of 'vae'"):
        fit(pictures(), NGram(), through=base)


def test_an_objective_replaces_the_engines_own(base: Fitted, tmp_path: Path) -> None:
    size = lambda m: sum(float(p.detach().square().sum()) for p in m.engine.parameters())  # noqa: E731
    words: dict[str, Any] = {"training": Training(rate=0.05, ema=None), "steps": 30, "seed": 1}
    shrunk = fit(pictures(), SMALL, objective=Spread(), **words)
    assert size(shrunk) < 0.2 * size(base)
    assert shrunk.recipe["objective"] == "Spread"
    held = fit(pictures(), SMALL, objective=Spread(), base=base, **words)
    pairs = zip(held.engine.parameters(), base.engine.parameters(), strict=True)
    far = sum(float((a.detach() - b.detach()).square().sum()) for a, b in pairs)
    assert far < 0.01 * size(base)
    with pytest.raises(Stopped):
        fit(pictures(), SMALL, objective=Spread(), out=tmp_path / "run", checkpoint_every=1, run=stop_at(2), **words)
    with pytest.raises(BadInput, match="has an objective of its own, Spread.*Fit it anew"):
        resume(tmp_path / "run", data=pictures())


# ------------------------------------------------------------------------------------------------------- bad numbers


def test_a_loss_that_is_not_finite_is_said_with_its_step(tmp_path: Path) -> None:
    wild = Training(rate=1e20, clip=None, warmup=0.0)
    with pytest.raises(NonFiniteLoss, match="Try a smaller learning rate than 1e") as caught:
        fit(pictures(), SMALL, training=wild, steps=50, checkpoint_every=1, out=tmp_path / "run")
    assert caught.value.exit_code == 3
    assert list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    with pytest.raises(BadInput, match="has not finished"):
        load(tmp_path / "run")
    with pytest.raises(NonFiniteLoss):
        resume(tmp_path / "run", data=pictures())


# ------------------------------------------------------------------------------------------------ looking on meanwhile


def test_previews_are_samples_of_the_model_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.fitting.SHARE", float("inf"))  # as if time were no matter
    words: dict[str, Any] = {"steps": 10, "seed": 4}
    told: list[Event] = []
    model = fit(pictures(60), SMALL, out=tmp_path / "watched", run=Run(listeners=[told.append]), **words)
    fit(pictures(60), SMALL, out=tmp_path / "alone", watch=False, **words)
    same_run(tmp_path / "alone", tmp_path / "watched")
    assert not (tmp_path / "alone" / "previews").exists()
    seen = [e for e in told if isinstance(e, Previewed)]
    assert [e.step for e in seen] == [2, 4, 6, 8, 10]
    assert [Path(str(e.path)).name for e in seen] == [f"step_{k:06d}.png" for k in (2, 4, 6, 8, 10)]
    last = model.sample(16, seed=4).items
    assert isinstance(last, Pictures)
    assert np.array_equal(seen[-1].items.items.pixels, last.pixels), "the last are the model's own"
    assert not np.array_equal(seen[0].items.items.pixels, seen[-1].items.items.pixels)
    listed = json.loads((tmp_path / "watched" / "manifest.json").read_text())["files"]
    assert sum(name.startswith("previews/") for name in listed) == 5
    load(tmp_path / "watched")
    assert [e.topic for e in told if isinstance(e, (Alarmed, Noticed)) and e.topic == "copying"] == ["copying"]
    fit(pictures(60), SMALL, out=tmp_path / "watched", force=True, watch=False, steps=1)
    assert not (tmp_path / "watched" / "previews").exists()


def test_previews_of_a_table_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.fitting.SHARE", float("inf"))
    with pytest.raises(Stopped):
        fit(rows(), FLOW, steps=10, seed=4, out=tmp_path / "run", checkpoint_every=3, run=stop_at(6))
    resume(tmp_path / "run", data=read_table(rows()))
    found = sorted((tmp_path / "run" / "previews").iterdir())
    assert [p.name for p in found] == [f"step_{k:06d}.csv" for k in (2, 4, 6, 8, 10)]
    assert pd.read_csv(found[-1]).shape == (16, 3)
    load(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "items", "ending"),
    [
        ("names.txt", ["anna", "otto", "hanna", "lotte"], ".txt"),
        ("m.smi", ["CCO", "CCN", "c1ccccc1", "CC(C)O"], ".csv"),
    ],
)
def test_a_run_with_previews_of_texts_can_be_opened(
    name: str, items: list[str], ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pellucid.fitting.SHARE", float("inf"))
    (tmp_path / name).write_text("\n".join(items * 10) + "\n")
    fit(read(tmp_path / name), "autoregressive", settings={"width": 16, "depth": 1}, steps=5, out=tmp_path / "run")
    found = sorted((tmp_path / "run" / "previews").iterdir())
    assert found
    assert {p.suffix for p in found} == {ending}
    assert len(load(tmp_path / "run").sample(3).items) == 3


def test_samples_that_cannot_be_kept_do_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Draw, path: Path, *, force: bool = False) -> Path:
        raise BadInput("the disk is full while saving it")

    monkeypatch.setattr("pellucid.fitting.SHARE", float("inf"))
    monkeypatch.setattr(Draw, "save", full)
    told: list[Event] = []
    model = fit(pictures(60), SMALL, out=tmp_path / "run", steps=5, run=Run(listeners=[told.append]))
    assert model.recipe["steps_done"] == 5
    assert any(isinstance(e, Noticed) and "No samples were kept" in e.text for e in told)


def test_a_model_that_copies_is_told_while_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty points learned by heart, thirty held out: the alarm needs no asking."""
    monkeypatch.setattr("pellucid.fitting.SHARE", float("inf"))
    told: list[Event] = []
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({k: draw.normal(size=60).round(3) for k in "abcdefgh"})
    fit(
        frame,
        RealNVP(width=64, depth=8),
        steps=400,
        held_out=0.5,
        training=Training(batch=30, rate=3e-3, ema=None),
        run=Run(listeners=[told.append]),
    )
    assert any(isinstance(e, Alarmed) and e.topic == "copying" for e in told)


@pytest.mark.parametrize("name", families())
def test_every_family_can_be_planned(name: str) -> None:
    """A budget in minutes tries real steps and counts their memory, whatever the losses are made of."""
    told: list[Event] = []
    items = read_table(rows()) if name == "wavenet_real" else pictures()  # it reads one direction, pictures have two
    model = fit(items, name, minutes=0.01, run=Run(listeners=[told.append]))
    if model.recipe["steps"] > 1 and not isinstance(model.engine, Grows):
        (planned,) = [e for e in told if isinstance(e, Planned)]
        assert "activations of one step" in planned.text
