"""experiments/launch: the local launcher runs a job of two, and shells can read the others."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "experiments" / "launch"
sys.path.append(str(ROOT / "tests" / "train"))


def local(*words):
    command = [sys.executable, str(LAUNCH / "local.py"), "--processes=2", *map(str, words)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    return found.returncode, found.stdout


def test_two_processes_evaluate_together_and_one_prints(tmp_path):
    from small_runs import make_pictures, write_config

    pictures = make_pictures(tmp_path / "pictures")
    config = write_config(tmp_path, pictures)
    evals = f"--config.evals.retrieval.path={pictures}"
    keys = [f"--config={config}", evals, "--config.eval_batch_size=16", "--config.steps=2"]
    code, out = local("--devices=2", "train", f"--workdir={tmp_path / 'w'}", *keys, "--json")
    assert code == 0, out
    (trained,) = [line for line in out.splitlines() if '"eval"' in line]
    assert trained.startswith("[0] ") and "4 device(s)" in out
    code, out = local("eval", f"--checkpoint={tmp_path / 'w'}", *keys[:3], "--json")
    assert code == 0, out
    (line,) = [line for line in out.splitlines() if '"eval"' in line]
    shared = json.loads(line.removeprefix("[0] "))["eval"]["retrieval"]["metrics"]
    assert shared == json.loads(trained.removeprefix("[0] "))["eval"]["retrieval"]


def test_the_first_to_fail_is_named_and_its_code_returned(tmp_path):
    code, out = local("data", "stats", "--rank=0:nowhere", "--rank=1:elsewhere")
    assert code == 2 and "[0] error: " in out and "rank 0 ended first, with exit code 2" in out


def test_scripts_are_sound_shell_and_explain_themselves():
    for name in ("tpu_pod.sh", "slurm.sbatch"):
        subprocess.run(["bash", "-n", LAUNCH / name], check=True)
    usage = subprocess.run([LAUNCH / "tpu_pod.sh"], capture_output=True, text=True, check=False)
    assert usage.returncode == 2 and "NAME ZONE train" in usage.stdout
