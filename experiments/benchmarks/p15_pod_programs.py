"""P15: pod programs against the least that must travel, and against plain GSPMD.

python experiments/benchmarks/p15_pod_programs.py [--plain=NAME,...] [--json]

Reads the plans in experiments/pod_plans/. The minimum of collective bytes: the gradient summed once
(state whole), or parameters gathered for the forward and for the backward pass and gradients
scattered (state split), in the compute type; and for the loss one side gathered and its gradient
scattered, float32. Goals: at most 1.1 times that, and 5 % of the memory to spare. --plain also
compiles those recipes with the loss of [B, B] logits and no rematerialisation, what one would
write first; its temporaries are the other goal (ours at most half).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
PLANS = ROOT / "experiments/pod_plans"
WIDTHS = {"ViT-B-32": 512, "ViT-B-16": 512, "ViT-L-14": 768, "ViT-H-14": 1024}


def minimum(plan: dict[str, Any], arch: str) -> int:
    """Bytes that must travel per device and step, whole arrays counted as in the plans."""
    item = {"bfloat16": 2, "float32": 4}[plan["settings"]["dtype"]]
    passes = 3 if plan["mesh"]["fsdp"] > 1 else 1
    loss = 2 * plan["global_batch"] * WIDTHS[arch] * 4
    return passes * plan["parameters"] * item + loss


def plain_temporaries(plan: dict[str, Any], arch: str) -> int:
    """Temporaries of the plain program, the state whole on every device; where it is refused, what
    it needs beside the state.
    """
    from vlp_jax.plan.topology import open_topology, prepare

    prepare(plan["topology"])
    import jax
    import jax.numpy as jnp

    from vlp_jax.api.config import load_config
    from vlp_jax.methods import clip
    from vlp_jax.plan.program import PlannedTrainer, compile_step, device_bytes

    def dense(image: jax.Array, text: jax.Array, scale: jax.Array) -> tuple[jax.Array, dict]:
        logits = jnp.exp(scale) * image @ text.T
        lse = [jax.nn.logsumexp(logits, axis=axis) for axis in (0, 1)]
        return jnp.mean(0.5 * (lse[0] + lse[1]) - jnp.diagonal(logits)), {}

    clip.softmax_contrastive = dense
    keys = {"batch_size": str(plan["global_batch"]), "method.remat": "none"}
    config = load_config(str(ROOT / f"configs/clip/openai.py:{arch}"), keys)
    trainer = PlannedTrainer(config, open_topology(plan["topology"]))
    found = compile_step(trainer)
    return found.temp if found.fits else found.hbm - device_bytes(trainer.abstract)


def main() -> int:
    """Runs the row."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--plain", default="", help="plans to compile in their plain form too")
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    rows = []
    print(f"{'plan':<36} {'fits':>5} {'spare':>6} {'collectives':>12} {'temporaries':>12}")
    for file in sorted(PLANS.glob("ViT-*.json")):
        plan, arch = json.loads(file.read_text()), file.stem.split("_")[0]
        row = {"plan": file.stem, "fits": plan["fits"], "spare": plan["spare"]}
        row["collectives"] = plan["collective_bytes"] / minimum(plan, arch)
        if file.stem in args.plain.split(","):
            row["plain_temp_bytes"] = plain_temporaries(plan, arch)
            row["temporaries"] = plan["temp_bytes"] / row["plain_temp_bytes"]
        rows.append(row)
        shown = f"{row['temporaries']:.2f}" if "temporaries" in row else ""
        ratio = f"{row['collectives']:.2f}"
        print(f"{row['plan']:<36} {row['fits']!s:>5} {row['spare']:>6.0%} {ratio:>12} {shown:>12}")
    if args.json:
        worst = max(row["collectives"] for row in rows)
        print(json.dumps({"row": "P15", "rows": rows, "ratio": worst}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
