"""Weights that are missing, left over, of another shape or type, or not numbers at all."""

from pathlib import Path

import torch
from endings import assert_ends_clearly
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import timestepper
from timestepper import networks
from timestepper.errors import StateError
from timestepper.stepping import load_weights

TYPES = (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
VALUES = (float("nan"), float("inf"), 0.0, 1e30, -1e30)


@st.composite
def changed(draw, state):
    """A state dict in which up to three tensors are not as they were."""
    state = dict(state)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(state)))
        tensor = state[name].clone()
        how = draw(st.sampled_from(["gone", "more", "shape", "type", "value", "name"]))
        if how == "gone":
            del state[name]
        elif how == "more":
            state[draw(st.text(max_size=9))] = torch.zeros(draw(st.integers(0, 3)))
        elif how == "shape":
            state[name] = torch.zeros(draw(st.lists(st.integers(0, 5), max_size=5)))
        elif how == "type":
            state[name] = tensor.to(draw(st.sampled_from(TYPES)))
        elif how == "value" and tensor.numel() and tensor.is_floating_point():
            place = draw(st.integers(0, tensor.numel() - 1))
            tensor.view(-1)[place] = draw(st.sampled_from(VALUES))
            state[name] = tensor
        elif how == "name":
            state[draw(st.sampled_from(["module.", "net."])) + name] = state.pop(name)
    return state


@given(st.data())
def test_loading(data):
    network = timestepper.attach(networks.create("cifar_resnet8"))
    own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if data.draw(st.booleans()):
        given_state = {name: t for name, t in own.items() if "time_stepping" not in name}
    else:
        given_state = own
    state = data.draw(changed(given_state))
    if data.draw(st.booleans()):
        state[data.draw(st.sampled_from(sorted(state)))] = data.draw(
            st.none() | st.text(max_size=3) | st.integers() | st.lists(st.integers(), max_size=2)
        )
    try:
        load_weights(network, state)
    except StateError as error:
        assert str(error).count("\n") == 0
        after = network.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in own.items())
    else:
        after = network.state_dict()
        assert all(torch.equal(after[name], state[name].to(own[name].dtype)) for name in state)
        assert all(t.isfinite().all() for t in after.values())


@given(st.data())
def test_files_of_safetensors(fresh, data):
    path = fresh() / "folded.safetensors"
    state = data.draw(changed(load_file(path)))
    save_file(state, path)
    assert_ends_clearly("evaluate", "run", "--weights", str(path))


PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.lists(st.integers(), max_size=3) | st.just({}) | st.just(torch.zeros(2))
)  # fmt: skip


INNER = ("optimizer", "meter", "step_history")


@given(st.data())
def test_checkpoints(fresh, data):
    """Whole by their checksums, and still not what a training has written."""
    folder = fresh()
    for name in ("last.pt", "previous.pt"):
        path = folder / "checkpoints" / name
        state = torch.load(path, weights_only=True)
        how = data.draw(st.sampled_from(["weights", "gone", "other", "inner", "all"]))
        if how == "weights":
            state["network"] = data.draw(changed(state["network"]))
        elif how == "gone":
            del state[data.draw(st.sampled_from(sorted(state)))]
        elif how == "other":
            state[data.draw(st.sampled_from(sorted(state)))] = data.draw(PLAIN)
        elif how == "inner":
            inner = data.draw(st.sampled_from([*INNER, state["history"][0]]))
            inner = state[inner] if isinstance(inner, str) else inner
            name = data.draw(st.sampled_from(sorted(inner)))
            if data.draw(st.booleans()):
                del inner[name]
            else:
                inner[name] = data.draw(PLAIN)
        else:
            state = data.draw(PLAIN)
        torch.save(state, path)
    command = data.draw(st.sampled_from([("evaluate", "run"), ("train", "--resume", "run")]))
    assert_ends_clearly(*command, may_write=["run"] if command[0] == "train" else ())
    assert Path("run/configuration.yaml").exists()
