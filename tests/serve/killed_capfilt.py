"""CapFilt killed at every operation on the disk in turn, with models made of numbers (killed.py).

Run by tests/cli/test_capfilt.py as a process of its own, before JAX has threads.
"""

import gc
import glob
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from killed import content, run

from vlp_jax.api import capfilt
from vlp_jax.api.capfilt_part import CapFilt, Rules
from vlp_jax.api.writing import Made
from vlp_jax.data.whole import write_whole

ROWS, PART = 5, 3
QUIET = SimpleNamespace(tell=lambda: None)


class Writes:
    arrays = QUIET

    def __call__(self, image, prompts, numbers):
        return [[Made(f"number {number}", 0.0, [])] for number in numbers]


class Matches:
    arrays = QUIET

    def see(self, image):
        return image

    def __call__(self, image, texts):
        return [(sum(map(ord, text)) % 100) / 100 for text in texts]


def work(request, models, source):
    from vlp_jax.data.decode import decode_image

    view = dict.fromkeys(("writer", "matcher"), lambda data: decode_image(data, 4))
    return CapFilt(source, Writes(), Matches(), view, Rules(threshold=0.2, threads=1), 2)


def sheet(notes, source, out):
    lines = [json.dumps(note) for note in notes()]
    write_whole(out, lambda path: Path(path).write_text("\n".join(lines)))


def main(data, folder):
    capfilt.start_jax = lambda: None
    capfilt.from_first = lambda text: text
    capfilt.load_models = lambda request: {}
    capfilt.offered = lambda path: None
    capfilt._work, capfilt.filtered_sheet = work, sheet
    gc.freeze()  # forks share it
    place = lambda name: os.path.join(folder, name)  # noqa: E731
    ask = lambda name: capfilt.Request(data, place(name), "a", "b", shard_size=PART)  # noqa: E731
    make = capfilt.capfilt
    assert run(ask("whole"), 0, make)["computed"] == ROWS
    wanted, fatal = content(place("whole")), 0
    while True:
        fatal, out = fatal + 1, f"at{fatal + 1}"
        if run(ask(out), fatal, make) is not None:
            break
        building = place(f".{out}.building")
        complete = os.path.exists(place(f"{out}/manifest.json"))
        complete = complete or os.path.exists(f"{building}/manifest.json")
        sealed = len(glob.glob(f"{building}/done/*.json"))
        assert complete or not os.path.exists(place(out)), "no half data set has the name"
        left = 0 if complete else max(0, ROWS - PART * sealed)
        assert run(ask(out), 0, make)["computed"] == left, (fatal, left)
        found = content(place(out))
        assert found == wanted, (fatal, found.keys() ^ wanted.keys())
        assert not [name for name in os.listdir(folder) if name.startswith(".")]
    print(json.dumps({"kills": fatal - 1}))


if __name__ == "__main__":
    main(*sys.argv[1:])
