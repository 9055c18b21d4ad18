"""Which of a file's tensors are the model: names under the wrappers that training leaves, and
averages beside raw weights.

The file exists so that pickles and safetensors are unwrapped by one rule, and so that a file that
holds two models says which one was taken.
"""

from vlp_jax.core.errors import UserError
from vlp_jax.interop.tensors import State

CHOICES = ("raw", "ema")
RAW = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights
EMA = (
    "state_dict_ema", "model_ema", "ema_model", "ema_state_dict", "model_ema_state_dict", "ema",
)  # fmt: skip
_PREFIXES = (*(f"{name}." for name in RAW), "module.", "_orig_mod.")
_DIFFUSION = "model.diffusion_model."  # the U-Net of a file that holds its autoencoder beside it
_AVERAGES = "model_ema."  # of what lies under `model.`, named without dots
_UNREAD = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel


def unwrap(state: State, weights: str = "", where: str = "") -> tuple[State, list[str]]:
    """Drops what stands around the names of one model.

    Example: {"model.module.a": 1, "model_ema.module.a": 2} gives {"a": 1}, and a note.

    Args:
      state: {name: Tensor}; nested dictionaries joined by dots.
      weights: raw, ema, or "" for the raw ones with a note where there are both.
      where: the file, for messages.

    Returns:
      (the model's tensors under their own names, notes).

    Raises:
      UserError: averaged or raw weights that the file has not.
    """
    whole = _under(state, RAW[0]) or state
    if any(name.startswith(_DIFFUSION) for name in whole):
        return _of_parts(whole, weights, where)
    raw, ema = (next((n for n in names if _under(state, n)), "") for names in (RAW, EMA))
    if weights == "ema" and not ema:
        raise UserError(f"--weights=ema: {where} holds no averaged weights")
    rest = {n: t for n, t in state.items() if n.partition(".")[0] not in EMA}
    notes = []
    if ema and not rest and weights == "raw":
        raise UserError(f"--weights=raw: {where} holds averaged weights alone ({ema!r})")
    if ema and (weights == "ema" or not rest):
        chosen, notes = _under(state, ema), [f"the averaged weights ({ema!r}) are taken"]
    else:
        chosen = _under(state, raw) or rest
        beside = [n for n in rest if not n.startswith(f"{raw}.")] if raw else []
        if beside:
            notes.append(f"{len(beside)} tensors beside {raw!r} are not read ({beside[0]})")
    if ema and rest and not weights:
        notes += [f"holds raw and averaged weights ({ema!r}); raw are taken, --weights=ema: these"]
    return _strip({n: t for n, t in chosen.items() if n not in _UNREAD}), notes


def _of_parts(state: State, weights: str, where: str) -> tuple[State, list[str]]:
    """`unwrap` of a file of CompVis/latent-diffusion, whose `model` is one part of several."""
    ema = {name for name in state if name.startswith(_AVERAGES)}
    rest = {name: tensor for name, tensor in state.items() if name not in ema}
    if weights == "ema" and not ema:
        raise UserError(f"--weights=ema: {where} holds no averaged weights")
    if not ema:
        return rest, []
    if weights != "ema":
        what = f"{len(ema)} averaged weights ({_AVERAGES[:-1]}) are left out"
        return rest, [] if weights else [f"{what}; --weights=ema takes them"]
    taken = {}
    for name in rest:
        copy = _AVERAGES + name.removeprefix("model.").replace(".", "")
        if name.startswith("model.") and copy in ema:
            taken[name] = state[copy]
    return rest | taken, [f"the averaged weights ({_AVERAGES[:-1]}) are taken"]


def _under(state: State, group: str) -> State:
    return {
        name.removeprefix(f"{group}."): tensor
        for name, tensor in state.items()
        if group and name.startswith(f"{group}.")
    }


def _strip(state: State) -> State:
    """Drops prefixes that all names share, one after another."""
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return _strip({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return state
