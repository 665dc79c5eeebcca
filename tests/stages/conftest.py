import pytest
from tiny_round import make_recipe, run_tiny_round, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The toy world's files. Do not write to them."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def recipe(world, tiny_policy_path):
    return make_recipe(world, tiny_policy_path)


@pytest.fixture(scope="session")
def finished_run(recipe, tmp_path_factory):
    """The folder of a round that was never interrupted. Do not write to it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    run_tiny_round(recipe, run)
    return run


@pytest.fixture(scope="session")
def finished(finished_run):
    """The stage folders of that round."""
    return finished_run / "round-1"
