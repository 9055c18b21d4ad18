"""One row of the table of features: probe and neighbours on a run's tower, and on raw pixels.

python -m vlp_jax eval --checkpoint=RUN --config=configs/classify/baselines.py
python -m vlp_jax eval --checkpoint=fresh:RUN --only=probe,knn
    --config=configs/classify/baselines.py

`fresh:` is the same tower untrained. The file exists so that every method is measured beside random
weights and no weights at all; argument: a folder from `data prepare fashion_mnist`, or empty for
the emoji's sub-categories.
"""

from ml_collections import ConfigDict

from configs.classify import tiny


def get_config(folder: str = "") -> ConfigDict:
    """Args: folder of Fashion-MNIST."""
    c = tiny.get_config()
    train, path = c.data.path, c.evals.test.path
    if folder:
        train, path = (f"{folder}/fashion_mnist-{part}-*.tar" for part in ("train", "test"))
    sets = {"train": train, "path": path, "label": "label" if folder else "subcategory"}
    c.evals = ConfigDict()
    for name, features in (("probe", "features"), ("pixel_probe", "pixels")):
        c.evals[name] = {"type": "probe", "features": features, "iterations": 300, **sets}
    for name, features in (("knn", "features"), ("pixel_knn", "pixels")):
        c.evals[name] = {"type": "knn", "features": features, **sets}
    return c
