"""Files from strangers: whatever is planted in them, nothing of it runs, and they are refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from click.testing import CliRunner
from stable_baselines3.common.save_util import save_to_zip_file

import bilevel_gym
from bilevel_gym.benchmark import load_results
from bilevel_gym.cli import main
from bilevel_gym.cli.arguments import CommandError
from bilevel_gym.cli.run_folder import load_start
from bilevel_gym.core.plain import dumps
from bilevel_gym.envs import ParametricGame
from bilevel_gym.learnt.answers import PreferenceQueue
from bilevel_gym.model.protocols import LearntMethod
from bilevel_gym.sb3 import HyperGradientAscent, SoftDQN, SoftSAC, UpperParamsPolicy
from bilevel_gym.sb3.soft_dqn import SoftQPolicy
from bilevel_gym.sb3.soft_sac import SoftSACPolicy

from .helpers import assert_identical
from .learnt import TINY_LEARNER
from .strangers import CONTENTS, MARK, Planted, archived, members_of, objects, table, torches

TINY: dict[str, Any] = {"episodes": 3, "inner_steps": 24, "inner_options": TINY_LEARNER}
GAME: dict[str, Any] = {"reward_model": {"kind": "network", "hidden": [4]}, "episode_steps": 15}


def write_module() -> None:
    """Write a module that leaves a mark when it is imported, where Python looks for modules."""
    Path("stranger.py").write_text(f"import os\nos.mkdir({str(MARK)!r})\n")


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Work in a folder of its own, with a module that must not be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_module()
    yield
    assert not MARK.exists() and "stranger" not in sys.modules


# Readers ----------------------------------------------------------------------------------------


def dqn(**options: Any) -> SoftDQN:
    options = {"temperature": 0.1, "gamma": 0.9, "buffer_size": 300, "seed": 0, **options}
    return SoftDQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, **options)


def sac() -> SoftSAC:
    options: dict[str, Any] = {"temperature": 0.1, "gamma": 0.9, "buffer_size": 300, "seed": 0}
    return SoftSAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}, **options)


def ascent(**options: Any) -> HyperGradientAscent:
    env = gym.make("BilevelGridWorld-v0", map_name="4x4")
    return HyperGradientAscent("UpperParamsPolicy", env, **options).learn(2)


def method() -> LearntMethod:
    game = ParametricGame("CartPole-v1", **GAME)
    return cast(LearntMethod, bilevel_gym.HyperGradient(game, "trace", **TINY).method)


def saved(model: Any) -> Path:
    model.save("model.zip")
    return Path("model.zip")


def buffer() -> Path:
    dqn().learn(20).save_replay_buffer("buffer.pkl")
    return Path("buffer.pkl")


def policy(model: Any) -> Path:
    model.policy.save("policy.pt")
    return Path("policy.pt")


def queue() -> Path:
    PreferenceQueue(3).save("queue.npz")
    return Path("queue.npz")


def params() -> Path:
    np.savez("params.npz", best_upper_params=np.zeros(14))
    return Path("params.npz")


def start(path: Path) -> Any:
    try:
        return load_start(path, gym.make("BilevelGridWorld-v0", map_name="4x4").unwrapped)  # type: ignore[arg-type]
    except CommandError as error:
        raise ValueError(str(error)) from None


# Each reader: a file that it accepts, and how it is read.
READERS: dict[str, tuple[Callable[[], Path], Callable[[Path], Any]]] = {
    "SoftDQN.load": (lambda: saved(dqn().learn(20)), SoftDQN.load),
    "SoftSAC.load": (lambda: saved(sac().learn(20)), SoftSAC.load),
    "HyperGradientAscent.load": (lambda: saved(ascent()), HyperGradientAscent.load),
    "set_parameters": (lambda: saved(dqn()), lambda path: dqn().set_parameters(path)),
    "load_replay_buffer": (buffer, lambda path: dqn().load_replay_buffer(path)),
    "SoftQPolicy.load": (lambda: policy(dqn()), lambda path: SoftQPolicy.load(str(path))),
    "SoftSACPolicy.load": (
        lambda: policy(sac()),
        lambda path: SoftSACPolicy.load(str(path)),
    ),
    "UpperParamsPolicy.load": (
        lambda: policy(ascent()),
        lambda path: UpperParamsPolicy.load(str(path)),
    ),
    "method.load": (lambda: saved(method()), lambda path: method().load(path)),
    "PreferenceQueue.load": (queue, PreferenceQueue.load),
    "--start": (params, start),
}
every_reader = pytest.mark.parametrize("reader", READERS)


def refused(read: Callable[[Path], Any], path: Path, message: str = "") -> None:
    """Assert that a file is refused in one line."""
    with pytest.raises(ValueError) as caught:
        read(path)
    text = str(caught.value)
    assert message in text and "\n" not in text and len(text) < 500, text


@every_reader
def test_nothing_that_is_planted_runs(reader: str) -> None:
    write, read = READERS[reader]
    path = write()
    read(path)
    members = members_of(path)
    forged = Path("forged" + path.suffix)
    unread = {"_stable_baselines3_version", "system_info.txt"}
    # The states of networks are enough for this one.
    if reader == "set_parameters":
        unread |= {name for name in members if not name.endswith(".pth")}
    for make in CONTENTS.values():
        content = make()
        forged.write_bytes(content)
        refused(read, forged)
        for name in {*members} - unread:
            if name.startswith("archive/") and not name.endswith("data.pkl"):
                continue  # torch's own archive
            forged.write_bytes(archived({**members, name: content}))
            refused(read, forged)


def test_what_is_planted_would_run() -> None:
    for content in ("pickle", "old pickle", "cloudpickle"):
        pickle.loads(CONTENTS[content]())
        MARK.rmdir()
    np.load(io.BytesIO(objects()), allow_pickle=True)
    MARK.rmdir()
    th.load(io.BytesIO(torches()), weights_only=False)
    MARK.rmdir()


@every_reader
def test_archives_are_refused_before_they_fill_the_memory(
    reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilevel_gym.core.plain.LARGE", 1 << 22)  # for a quick test
    write, read = READERS[reader]
    path = write()
    members = members_of(path)
    largest = max(members, key=lambda name: (name.endswith((".npy", ".pth", ".pt")), name))
    path.write_bytes(archived({**members, largest: bytes(1 << 23)}, compressed=True))
    assert path.stat().st_size < 1 << 20
    refused(read, path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as archive:
        for name, content in [*members.items(), (largest, members[largest])]:
            archive.writestr(name, content)
    refused(read, path)


@every_reader
def test_what_is_no_file_is_refused_as_such(reader: str, tmp_path: Path) -> None:
    _, read = READERS[reader]
    kind = ValueError if reader == "--start" else FileNotFoundError
    with pytest.raises(kind):
        read(tmp_path / "nothing.zip")
    with pytest.raises((ValueError, OSError)):
        read(tmp_path)


# Models -----------------------------------------------------------------------------------------

MODELS: dict[str, Callable[[], Any]] = {
    "soft-dqn": lambda: dqn().learn(20),
    "soft-sac": lambda: sac().learn(20),
    "ascent": ascent,
}
every_model = pytest.mark.parametrize("kind", MODELS)


def older(model: Any, **more: Any) -> Path:
    """Save a model as Stable-Baselines3 does, and as earlier versions did."""
    states, variables = model._get_torch_save_params()
    left = {*model._excluded_save_params(), *(name.split(".")[0] for name in states + variables)}
    data = {name: value for name, value in vars(model).items() if name not in left}
    extra = {name: getattr(model, name) for name in variables}
    save_to_zip_file("older.zip", {**data, **more}, model.get_parameters(), extra)
    return Path("older.zip")


def vectors(policy: Any) -> Any:
    return th.nn.utils.parameters_to_vector(policy.parameters()).detach().numpy()


def parameters(model: Any) -> Any:
    return vectors(model.policy)


@every_model
def test_files_with_pickles_need_trust_or_what_replaces_them(kind: str) -> None:
    model = MODELS[kind]()
    path = older(model)
    refused(type(model).load, path, "`trust=True`")
    refused(type(model).load, path, "policy_class")
    trusted = type(model).load(path, trust=True)
    assert_identical(parameters(trusted), parameters(model))
    data = json.loads(members_of(path)["data"])
    pickled = {name for name, value in data.items() if ":serialized:" in str(value)}
    own = {name: getattr(model, name) for name in pickled}
    assert_identical(parameters(type(model).load(path, custom_objects=own)), parameters(model))


@every_model
def test_what_this_version_writes_needs_no_trust(kind: str) -> None:
    model = MODELS[kind]()
    path = saved(model)
    assert b":serialized:" not in members_of(path)["data"]
    loaded = type(model).load(path)
    assert_identical(parameters(loaded), parameters(model))
    for name in ("observation_space", "action_space", "policy_class", "ep_info_buffer", "seed"):
        assert getattr(loaded, name) == getattr(model, name), name
    fresh = MODELS[kind]()
    fresh.set_parameters("model")  # ".zip" is added, as elsewhere
    assert_identical(parameters(fresh), parameters(model))


def test_a_function_of_the_users_is_replaced_or_trusted() -> None:
    model = dqn(learning_rate=lambda left: 1e-3 * left)
    path = saved(model)
    refused(SoftDQN.load, path, "as learning_rate; pass `custom_objects={name: value}`")
    for options in (
        {"custom_objects": {"learning_rate": lambda left: 2e-3 * left}},
        {"learning_rate": lambda left: 2e-3 * left},
    ):
        loaded = SoftDQN.load(path, **options)
        assert loaded.lr_schedule(0.5) == 1e-3
    assert SoftDQN.load(path, trust=True).lr_schedule(0.5) == 5e-4
    with pytest.raises(ValueError, match="policy kwargs do not equal the stored policy kwargs"):
        SoftDQN.load(path, trust=True, policy_kwargs={"net_arch": [4]})
    with pytest.raises(ValueError, match="`custom_objects` must be a dict"):
        SoftDQN.load(path, custom_objects=["learning_rate"])  # type: ignore[arg-type]


def test_attributes_of_a_file_are_data_and_replace_nothing_else() -> None:
    path = saved(dqn())
    members = members_of(path)
    data = json.loads(members["data"])

    def forged(**changes: Any) -> Path:
        other = Path("forged.zip")
        content = json.dumps({**data, **changes}).encode()
        other.write_bytes(archived({**members, "data": content}))
        return other

    SoftDQN.load(forged())
    planted = {":type:": "dict", ":serialized:": "gASVCQAAAAAAAACMBXN0cmFuZ2Vy"}
    for changes in (
        {"env": "stranger:Env-v0"},  # which is imported where it is made
        {"learn": 1},
        {"logger": 1},
        {"load": 1},
        {"policy_class": {":plain:": table("stranger.Policy")}},
        {"policy_class": {":plain:": {"root": {"known": "os.system"}, "objects": []}}},
        {"policy_class": "stranger.Policy"},
        {"policy_class": None},
        {"_logger": {"a": 1}},
        {"observation_space": planted},
        {"policy_kwargs": {"net_arch": [10**6, 10**6], "temperature": 0.1}},
        {"policy_kwargs": {"net_arch": 10**5 * [100], "temperature": 0.1}},
        {"policy_kwargs": {"net_arch": "stranger"}},
        {"buffer_size": 10**17},
        {"_generators": 3},
        {"train_freq": {"a": 1}},
    ):
        refused(SoftDQN.load, forged(**changes))
    # A name that no model has harms nobody.
    assert SoftDQN.load(forged(note="stranger")).note == "stranger"  # type: ignore[attr-defined]
    path.write_bytes(archived({**members, "replay_buffer.pth": members["policy.pth"]}))
    refused(SoftDQN.load, path)
    refused(lambda path: dqn().set_parameters(path), path)


def test_buffers_alone_go_on_and_pickles_of_them_need_trust() -> None:
    model, other = dqn().learn(40), dqn(buffer_size=80)
    model.save_replay_buffer("buffer")
    assert Path("buffer.pkl").exists()
    other.load_replay_buffer("buffer")
    assert model.replay_buffer is not None and other.replay_buffer is not None
    assert_identical(other.replay_buffer.state_dict(), model.replay_buffer.state_dict())
    assert other.replay_buffer.buffer_size == 300
    Path("theirs.pkl").write_bytes(pickle.dumps(model.replay_buffer))
    refused(other.load_replay_buffer, Path("theirs.pkl"), "`trust=True`")
    other.load_replay_buffer("theirs.pkl", trust=True)
    assert_identical(other.replay_buffer.state_dict(), model.replay_buffer.state_dict())


@every_model
def test_policies_alone_need_trust_where_they_are_pickled(kind: str) -> None:
    model = MODELS[kind]()
    data = model.policy._get_constructor_parameters()
    th.save({"state_dict": model.policy.state_dict(), "data": data}, "older.pt")
    load = type(model.policy).load
    refused(load, Path("older.pt"), "`trust=True`")
    model.policy.save("policy.pt")
    for path, trust in (("older.pt", True), ("policy.pt", True), ("policy.pt", False)):
        loaded = load(path, device="cpu", trust=trust)
        assert_identical(vectors(loaded), vectors(model.policy))
    stream = io.BytesIO()
    model.policy.save(stream)
    stream.seek(0)
    assert_identical(vectors(load(stream)), vectors(model.policy))


# Methods and environments -----------------------------------------------------------------------


def test_archives_of_methods_of_earlier_versions_need_trust() -> None:
    ours = method()
    path = saved(ours)
    members = members_of(path)
    model: Any = ours.follower.model
    learner = older(model).read_bytes()
    running = pickle.dumps(model.env)
    del members["environment.json"]
    for changes in ({"learner.zip": learner}, {"environment.pickle": running}):
        path.write_bytes(archived({**members, **changes}))
        refused(method().load, path, "`trust=True`")
        method().load(path, trust=True)
    path.write_bytes(archived({**members, "environment.pickle": pickle.dumps(Planted())}))
    refused(method().load, path, "`trust=True`")


def test_a_forged_environment_is_refused() -> None:
    ours = method()
    path = saved(ours)
    members = members_of(path)
    text = members["environment.json"].decode()
    refused_texts = [
        text.replace("CartPoleEnv", "stranger.Env"),
        text.replace("gymnasium.envs.classic_control.cartpole.CartPoleEnv", "os.system"),
        dumps({"steps": 3}),
        json.dumps(table("gymnasium.wrappers.common.TimeLimit")),
        json.dumps({"root": {"at": 10**9}, "objects": []}),
        json.dumps({"root": {"at": 0}, "objects": [["array", "stranger"]]}),
        json.dumps({"root": {"stranger": 0}, "objects": []}),
    ]
    for forged in refused_texts:
        assert forged != text
        path.write_bytes(archived({**members, "environment.json": forged.encode()}))
        refused(method().load, path)


def test_who_does_not_trust_a_console_is_told_that_a_new_episode_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, ours = saved(method()), method()
    monkeypatch.setattr("bilevel_gym.learnt.followers.restored", lambda *args, trust: None)
    with pytest.warns(UserWarning, match="begins a new episode.*`trust=True`"):
        ours.load(path)


# Results ----------------------------------------------------------------------------------------


def test_results_and_their_benchmark_run_nothing_and_import_nothing() -> None:
    from bilevel_gym.benchmark.config import parse_benchmark

    from .runs import EXACT, OPTIMIZER, TASK, here

    text = f"steps = 2\nseeds = 1\n{TASK}{EXACT}{OPTIMIZER}"
    folder, pipe = Path("results"), Path("pipe").absolute()
    folder.mkdir()
    os.mkfifo(pipe)
    (folder / "benchmark.toml").write_text(text)
    here(parse_benchmark(text, "text"), folder)
    assert len(load_results(folder)) == 3
    (result,) = (folder / "runs").glob("*.parquet")
    whole = result.read_bytes()
    for make in CONTENTS.values():
        result.write_bytes(make())
        assert len(load_results(folder).attrs["damaged"]) == 1
    result.write_bytes(whole)
    for make in CONTENTS.values():
        for checked in folder.glob("*.json"):
            checked.write_bytes(make())
        (folder / "checked.json").write_bytes(make())
        assert len(load_results(folder)) == 3
    for name in ("checked.json", "benchmark.toml"):
        kept = folder / f"kept {name}"
        (folder / name).rename(kept)
        for endless in (Path("/dev/zero"), pipe):
            (folder / name).symlink_to(endless)
            if name == "checked.json":
                assert len(load_results(folder)) == 3
            else:
                refused(load_results, folder, "no regular file")
            (folder / name).unlink()
        kept.rename(folder / name)
    result.unlink()
    result.symlink_to(pipe)
    (damaged,) = load_results(folder).attrs["damaged"]
    assert "no regular file" in damaged
    result.unlink()
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(whole))
    many = pa.concat_tables(500_000 * [table]).combine_chunks()
    pq.write_table(many, result)
    assert result.stat().st_size < 1 << 22
    (damaged,) = load_results(folder).attrs["damaged"]
    assert "1500000 rows, and the run has 2 steps" in damaged


# Runs -------------------------------------------------------------------------------------------


def solve(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["solve", *map(str, arguments)])


@pytest.mark.parametrize(
    ("task", "options", "kept"),
    [
        ("BilevelGridWorld-v0", ["--set", "map_name=4x4", "--method", "trace"], "method.npz"),
        ("BilevelCartPole-v0", ["--method-set", "inner_steps=20"], "method.zip"),
    ],
)
def test_a_run_that_is_gone_on_with_runs_nothing(task: str, options: list[str], kept: str) -> None:
    folder = Path("run")
    some = [
        CONTENTS[name] for name in ("pickle", "object array", "brackets", "function", "nothing")
    ]
    few = ["--steps", 1, "--out", folder]
    if kept == "method.zip":
        few += ["--method-set", "episodes=2", "--method-set", "critic_updates=2"]
        few += ["--method-set", "first_inner_steps=20"]
    result = solve(task, *options, *few)
    assert result.exit_code == 0, result.output
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for name in (kept, "evaluations.bin", "config.json", "params.npz", "history.csv"):
        for make in some:
            (folder / name).write_bytes(make())
            result = solve("--resume", folder, "--steps", 2)
            # What is only written is replaced.
            if name in (kept, "config.json") or result.exit_code:
                assert result.exit_code in (1, 2), (name, result.output)
                assert isinstance(result.exception, SystemExit), result.exception
                assert len(result.output.splitlines()) < 6, result.output
            for path, content in whole.items():
                path.write_bytes(content)
    # The other members of a method's file are tried above.
    members = members_of(folder / kept)
    for name in {*members} & {"place.json", "arr_0.npy", "arr_1.npy"}:
        for make in some:
            (folder / kept).write_bytes(archived({**members, name: make()}))
            result = solve("--resume", folder, "--steps", 2)
            assert result.exception is None or isinstance(result.exception, SystemExit)
    (folder / kept).write_bytes(whole[folder / kept])
    for content in (CONTENTS["pickle"](), b"kept"):
        other = Path("other").absolute()
        other.write_bytes(content)
        for name in ("history.csv", "evaluations.bin", kept):
            (folder / name).unlink()
            (folder / name).symlink_to(other)
            result = solve("--resume", folder)
            assert result.exit_code != 0 and "is a link" in result.output
            assert other.read_bytes() == content
            (folder / name).unlink()
            (folder / name).write_bytes(whole[folder / name])


def test_settings_of_libraries_in_the_current_folder_are_not_read() -> None:
    Path("matplotlibrc").write_text("text.usetex: True\n")  # which runs LaTeX
    Path(".numba_config.yaml").write_text("cache_dir: pickles\n")
    text = "from bilevel_gym.cli import main; main()"
    arguments = ["solve", "BilevelGridWorld-v0", "--set", "map_name=4x4", "--steps", "1"]
    command = [sys.executable, "-c", text, *arguments, "--out", "out"]
    environment = {key: value for key, value in os.environ.items() if "FAST" not in key}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert ended.stderr.splitlines() == [
        "Warning: matplotlibrc in this folder is not read",
        "Warning: compiled kernels are off beside .numba_config.yaml",
    ]
    assert Path("out/progress.png").exists() and not Path("pickles").exists()
