"""clip-retrieval's own client against our service, unchanged.

It is installed with `pip install --no-deps clip-retrieval`: its client needs requests alone, its
other parts versions that nothing else can live with.
"""

import sys
import types

import numpy as np
import pytest
from serve.small_service import COLOURS, SHADES, encoded, make_service, running, unit, write_index

pytest.importorskip("starlette", reason="the service is of the extra `search`")
pytest.importorskip("requests", reason="the client asks by it")


@pytest.fixture(scope="module")
def client_module():
    """clip_retrieval.clip_client, without the package's __init__, which imports everything."""
    import importlib.util
    import pathlib

    spec = importlib.util.find_spec("clip_retrieval")
    if spec is None:
        pytest.skip("needs `pip install --no-deps clip-retrieval`")
    package = types.ModuleType("clip_retrieval")
    package.__path__ = [str(pathlib.Path(place)) for place in spec.submodule_search_locations]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "clip_retrieval", package)
        yield importlib.import_module("clip_retrieval.clip_client")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer") / "squares"
    write_index(folder)
    found = running(make_service(folder))
    yield found.url
    found.stop()


def test_the_client_finds_by_text_picture_and_vector(client_module, url, tmp_path):
    import requests

    (name,) = requests.get(f"{url}/indices-list", timeout=5).json()
    plain = dict(deduplicate=False, use_safety_model=False, use_violence_detector=False)
    client = client_module.ClipClient(f"{url}/knn-service", name, num_images=SHADES, **plain)
    (tmp_path / "blue.png").write_bytes(encoded(COLOURS["blue"]))
    vector = unit([COLOURS["blue"]])[0].tolist()
    asked = [{"text": "blue"}, {"image": str(tmp_path / "blue.png")}, {"embedding_input": vector}]
    for words in asked:
        found = client.query(**words)
        assert {row["id"] // SHADES for row in found} == {list(COLOURS).index("blue")}
        assert all(set(row) >= {"id", "similarity", "caption", "image"} for row in found)
        scores = [row["similarity"] for row in found]
        assert len(found) == SHADES and np.all(np.diff(scores) <= 0)


def test_the_client_as_it_comes(client_module, url):
    """Its defaults: aesthetic score 9, removal of duplicates, unsafe and violent rows."""
    client = client_module.ClipClient(f"{url}/knn-service", "squares")
    assert {"id", "similarity", "caption"} <= set(client.query(text="red")[0])
    captions = client_module.ClipClient(
        f"{url}/knn-service", "squares", modality=client_module.Modality.TEXT, num_images=2
    )
    assert captions.query(text="green")[0]["caption"].startswith("green")
    assert "error" in client.query(image="http://169.254.169.254/latest")
