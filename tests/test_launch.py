"""The launch files: what they start is started, and again when its exit status says that this helps."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from stp_jax.command_line import read_config
from tests.environment import ROOT, environment
from tests.training.test_processes import PROGRAM

LAUNCH = ROOT / "launch"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{text}")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("statuses", "last", "starts"),
    [([0], 0, 1), ([75, 143, 138, 0], 0, 4), ([75, 2], 2, 2), ([75] * 9, 75, 4), ([130], 130, 1)],
)
def test_a_command_is_run_again_only_while_that_helps(tmp_path, statuses, last, starts):
    (tmp_path / "statuses").write_text("\n".join(map(str, statuses)) + "\n")
    script(tmp_path / "run", "echo x >> starts; exit $(sed -n $(wc -l < starts)p statuses)")
    done = subprocess.run(
        [LAUNCH / "again.sh", "./run"], cwd=tmp_path, env=os.environ | {"PAUSE": "0", "MOST": "3"}
    )
    assert done.returncode == last
    assert len((tmp_path / "starts").read_text().splitlines()) == starts


def test_a_command_that_ends_before_it_is_waited_for_is_run_again(tmp_path):
    (tmp_path / "slow").write_text("trap 'sleep 0.1' DEBUG\n")  # before every line of the scripts
    script(tmp_path / "run", "exit 75")
    settings = {"PAUSE": "0", "MOST": "1", "BASH_ENV": str(tmp_path / "slow")}
    done = subprocess.run([LAUNCH / "again.sh", "./run"], cwd=tmp_path, env=os.environ | settings)
    assert done.returncode == 75


def test_a_signal_reaches_the_command_and_ends_it_for_good(tmp_path):
    script(tmp_path / "run", "trap 'sleep 0.5; exit 143' TERM; touch ready; while :; do sleep 0.1; done")
    process = subprocess.Popen([LAUNCH / "again.sh", "./run"], cwd=tmp_path)
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    process.terminate()
    assert process.wait(20) == 143


def test_under_slurm_processes_find_each_other_and_the_job_is_queued_again(tmp_path):
    """With stand-ins for srun and scontrol, which start tasks with SLURM's variables and note the job."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "config.py").write_text(
        "from tests.training.toy_config import toy_config\n"
        "def get_config(): return toy_config(steps=4, checkpoint_every=2, log_every=1)\n"
    )
    tasks = (
        "shift; for i in 0 1; do\n"
        "    export SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost\n"
        '    "$@" & tasks+=($!)\n'
        "done\n"
        "for task in ${tasks[@]}; do wait $task || status=$?; done; exit ${status:-0}\n"
    )
    script(tmp_path / "srun", tasks)
    script(tmp_path / "scontrol", f"echo $@ >> {tmp_path}/requeued")
    once = f"{tmp_path}/once$SLURM_PROCID"
    first = f"[ -e {once} ] || {{ touch {once}; exit 75; }}\n"
    script(tmp_path / "python", f'{first}shift; exec {sys.executable} {tmp_path}/program.py "$@"')
    variables = environment(devices=1) | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),  # the port follows from it
        "NOTES": str(tmp_path / "notes"),
    }
    flags = ["--config", tmp_path / "config.py", "--workdir", tmp_path / "run"]

    def start():
        return subprocess.run(
            [LAUNCH / "slurm.sbatch", *flags], env=variables, capture_output=True, text=True, timeout=240
        )

    assert start().returncode == 75
    assert (tmp_path / "requeued").read_text() == f"requeue {os.getpid()}\n"
    time.sleep(0.1)
    done = start()
    assert done.returncode == 0, done.stderr
    assert "of 2 processes" in done.stdout + done.stderr
    assert len((tmp_path / "requeued").read_text().splitlines()) == 1
    assert (tmp_path / "run/weights/toy.json").exists()


def test_under_slurm_a_mistake_of_one_task_ends_the_job_for_good(tmp_path):
    script(tmp_path / "srun", 'shift; for i in 0 1; do SLURM_PROCID=$i "$@" & done; wait; exit 137\n')
    script(tmp_path / "scontrol", f"echo $@ >> {tmp_path}/requeued")
    script(tmp_path / "python", "[ $SLURM_PROCID = 1 ] && exit 2; exit 75\n")
    variables = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "1"}
    done = subprocess.run([LAUNCH / "slurm.sbatch"], env=variables, cwd=tmp_path)
    assert done.returncode == 2 and not (tmp_path / "requeued").exists()
    assert not list(tmp_path.glob("*.mistake"))


def test_ctrl_c_reaches_the_command_and_ends_it_for_good(tmp_path):
    start = f"os.execv('{LAUNCH}/again.sh', ['again', './x'])"
    code = f"import signal, os; signal.signal(signal.SIGINT, signal.SIG_DFL); {start}"
    (tmp_path / "x").write_text(
        f"#!{sys.executable}\nimport signal, pathlib, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "pathlib.Path('ready').touch()\n"
        "try: time.sleep(20)\nexcept KeyboardInterrupt: raise SystemExit(130)\n"
    )
    (tmp_path / "x").chmod(0o755)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def examples_of_launching():
    """Devices and flags of every ready-made start of several hosts."""
    for text, devices in (((LAUNCH / "README.md").read_text(), 16), ((ROOT / "README.md").read_text(), 16)):
        (line,) = re.findall(r"sbatch launch/slurm.sbatch ([^`\n#]*)", text)
        yield devices, line.split()
    for name in ("kubernetes_gpu.yaml", "gke_tpu.yaml"):
        (job,) = yaml.safe_load((LAUNCH / name).read_text())["spec"]["replicatedJobs"]
        spec = job["template"]["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        (limit,) = container["resources"]["limits"].values()
        yield spec["parallelism"] * limit, container["args"][0].split()


def test_the_examples_fit_the_devices_that_they_ask_for():
    for devices, words in examples_of_launching():
        config = read_config(words[words.index("--config") + 1])
        for word in words:
            if match := re.fullmatch(r"--config\.(\w+)\.(\w+)=(\d+)", word):
                config[match[1]][match[2]] = int(match[3])
        sizes = dict(config.mesh)
        known = math.prod(size for size in sizes.values() if size != -1)
        sizes = {axis: devices // known if size == -1 else size for axis, size in sizes.items()}
        assert math.prod(sizes.values()) == devices, words
        assert config.train.batch_size % (sizes["data"] * sizes["fsdp"]) == 0, words


@pytest.mark.parametrize("name", ["kubernetes_gpu.yaml", "gke_tpu.yaml"])
def test_job_sets_start_one_process_a_pod_and_restart_them_together(name):
    described = yaml.safe_load((LAUNCH / name).read_text())
    (job,) = described["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["completionMode"] == "Indexed" and spec["parallelism"] == spec["completions"]
    assert spec["backoffLimit"] == 0 and described["spec"]["failurePolicy"]["maxRestarts"] > 0
    (container,) = spec["template"]["spec"]["containers"]
    (command,) = container["args"]
    if name == "kubernetes_gpu.yaml":
        first = f"{described['metadata']['name']}-{job['name']}-0-0.{described['metadata']['name']}"
        port = container["ports"][0]["containerPort"]
        assert f"--coordinator={first}:{port} --processes={spec['parallelism']} --process=$JOB" in command
    else:
        slice_ = spec["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
        chips = 1
        for side in slice_.split("x"):
            chips *= int(side)
        assert spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips
    config = next(word for word in command.split() if word.endswith(".py") and word.startswith("configs/"))
    assert (ROOT / config).exists()
