"""Pictures and a config that all runs of this folder share."""

import contextlib

import jax
import pytest
from small_runs import make_pictures, write_config

from vlp_jax.api.config import load_config
from vlp_jax.parallel import mesh
from vlp_jax.train import trainer


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_config(folder, make_pictures(folder / "pictures"))


@pytest.fixture(scope="session")
def toy_file(config_file):
    """A config of the toy on the same pictures, for tests of many processes."""
    return write_config(config_file.parent, config_file.parent / "pictures", toy=True)


@pytest.fixture
def make_trainer(config_file):
    """make_trainer(devices=1, **overrides) -> Trainer on the first of the simulated devices."""

    def make(devices=1, **overrides):
        config = load_config(str(config_file), {k: str(v) for k, v in overrides.items()})
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            chosen = jax.devices()[:devices]
            patch.setattr(trainer, "make_mesh", lambda shape: mesh.make_mesh(shape, chosen))
            return trainer.Trainer(config)

    return make
