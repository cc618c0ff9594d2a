"""Plans carried out in jobs: trained as without, resumed, not submitted twice.

Local jobs are real. Of Slurm there are only programs of the same names; what they are called with
is real, and so is what a job does that Slurm signals.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
from made import finish

from timestepper.cli import main
from timestepper.experiments import runner
from timestepper.experiments.cluster import ClusterConfiguration, carry_out_on, check_cluster
from timestepper.experiments.plan import plan
from timestepper.experiments.study import Scale
from timestepper.training.interruption import Interrupted

LOCAL = ClusterConfiguration("local")
METHODS = ("plain", "tsc-lstm")
RUNS = Path("runs")
JOBS = RUNS / "cluster"


def planned_runs(methods=METHODS, folder=RUNS):
    return [
        dataclasses.replace(each, configuration=dataclasses.replace(each.configuration, epochs=3))
        for each in plan(methods, Scale(("smoke",), {"8": "cifar_resnet8"}, 1), folder, None)
    ]


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch):
    monkeypatch.setattr(runner, "cores", lambda: 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """What the trainings come to without a cluster and without interruptions."""
    planned = planned_runs(folder=tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "cores", lambda: 1)
        assert all(failure is None for _, failure in runner.carry_out(planned, jobs=2))
    return {each.method: each.run.folded.read_bytes() for each in planned}


def trained_weights(planned):
    return {each.method: each.run.folded.read_bytes() for each in planned}


def wait_for(condition, process=None):
    deadline = time.monotonic() + 300
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_background(action, *arguments):
    thread = threading.Thread(target=action, args=arguments)
    thread.start()
    return thread


def training_process(planned):
    """Find the process that holds the lock of the run's folder."""
    lock = str(planned.run.lock.absolute())
    (process,) = (
        process
        for process in psutil.Process().children(recursive=True)
        if lock in [file.path for file in process.open_files()]
    )
    return process


def kill_training(planned):
    wait_for(planned.run.metrics.exists)
    training_process(planned).kill()


def stop_all(planned):
    """Let Ctrl-C come while a training is in the middle of something."""
    wait_for(planned.run.is_in_training)
    training = training_process(planned)
    training.suspend()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)
    training.resume()


def submitted():
    return len(list(JOBS.glob("*_submitted.pkl")))


@pytest.mark.slow
def test_local_jobs_fail_alone_go_on_and_come_to_the_same_weights(weights):
    plain, stepped = planned_runs()
    (broken,) = planned_runs(("tsc-indp",))
    network = dataclasses.replace(broken.configuration.network, options={"depht": 3})
    configuration = dataclasses.replace(broken.configuration, network=network)
    broken = dataclasses.replace(broken, configuration=configuration)

    killer = in_background(kill_training, stepped)
    ended = {
        each.method: failure
        for each, failure in carry_out_on(LOCAL, [plain, broken, stepped], 2, RUNS)
    }
    killer.join()
    assert ended["plain"] is None
    assert "has no option 'depht'" in ended["tsc-indp"]
    assert ended["tsc-lstm"] == f"its process was ended by SIGKILL; see {stepped.log}"
    assert "Traceback" not in broken.log.read_text()
    assert [each.state for each in (plain, stepped)] == ["done", "started"]
    assert submitted() == 3

    # The same command again, but it is stopped once more.
    stopper = in_background(stop_all, stepped)
    with pytest.raises(Interrupted, match="the same command goes on from there"):
        list(carry_out_on(LOCAL, [plain, stepped], 2, RUNS))
    stopper.join()
    assert "everything is saved" in stepped.log.read_text()
    assert not stepped.run.is_in_training()
    assert submitted() == 4

    assert list(carry_out_on(LOCAL, [plain, stepped], 2, RUNS)) == [(stepped, None)]
    assert trained_weights([plain, stepped]) == weights
    assert list(carry_out_on(LOCAL, [plain, stepped], 2, RUNS)) == []
    assert submitted() == 5


def test_what_another_process_trains_is_waited_for_and_not_submitted():
    (planned,) = planned_runs(("plain",))
    held = threading.Event()

    def train():
        with planned.run.writing():
            held.set()
            time.sleep(2)
            finish(planned)

    other = in_background(train)
    held.wait()
    assert list(carry_out_on(LOCAL, [planned], 1, RUNS)) == [(planned, None)]
    other.join()
    assert submitted() == 0


PROGRAMS = {
    "sbatch": 'cp "$1" sbatch-$(ls sbatch-* 2>/dev/null | wc -l); echo "Submitted batch job 77"',
    "srun": 'while [ "$1" != -u ] ; do last=$1; shift; done; exec "$last" "$@"',
    "sacct": "cat sacct.txt",
    "scontrol": 'echo "$@" >> scontrol.txt',
}
"""Stand for Slurm's; they are called in the current folder."""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    say("")
    return programs


def say(*jobs):
    """Let sacct say so."""
    Path("sacct.txt").write_text("\n".join(["JobID|State|NodeList", *jobs, ""]))


def test_slurm_gets_what_was_asked_for_once(slurm):
    options = {"account": "mine", "mem": "32GB", "setup": ["module load cuda"], "wckey": None}
    cluster = ClusterConfiguration("slurm", "gpu", hours=1.51, cpus=3, gpus=1, options=options)
    check_cluster(cluster)
    planned = planned_runs()
    say("77_[0-1%2]|PENDING|")

    def stop_when_submitted():
        wait_for(lambda: len(list(JOBS.glob("*.job"))) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = in_background(stop_when_submitted)
    with pytest.raises(Interrupted, match="the jobs go on, and the same command waits"):
        list(carry_out_on(cluster, planned, 2, RUNS))
    stopper.join()
    script = Path("sbatch-0").read_text().splitlines()
    folder = JOBS.absolute()
    assert sorted(line for line in script if line.startswith("#SBATCH")) == [
        "#SBATCH --account=mine",
        "#SBATCH --array=0-1%2",
        "#SBATCH --cpus-per-task=3",
        f"#SBATCH --error={folder}/%A_%a_0_log.err",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --job-name=timestepper",
        "#SBATCH --mem=32GB",
        "#SBATCH --nodes=1",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={folder}/%A_%a_0_log.out",
        "#SBATCH --partition=gpu",
        "#SBATCH --signal=USR2@90",
        "#SBATCH --time=91",
    ]
    assert "module load cuda" in script

    # The same command finds them in the queue; then one is done, and one is cancelled.
    def end():
        time.sleep(1.5)
        finish(planned[0])
        say("77_0|COMPLETED|node", "77_1|CANCELLED|node")

    ender = in_background(end)
    ended = {each.method: failure for each, failure in carry_out_on(cluster, planned, 2, RUNS)}
    ender.join()
    assert ended["plain"] is None
    assert ended["tsc-lstm"].startswith("job 77_1 ended before it had finished (CANCELLED); see ")
    assert not Path("sbatch-1").exists()


def test_the_command_line_says_where_and_slurm_may_refuse(slurm, capsys):
    (slurm / "sbatch").write_text(
        '#!/bin/sh\ncp "$1" asked; echo "error: no account" >&2; exit 1\n'
    )
    where = [
        "--cluster.name",
        "slurm",
        "--cluster.partition",
        "gpu",
        "--cluster.options.qos",
        "low",
    ]
    assert main(["reproduce", "figure3", "--scale", "smoke", "--jobs", "3", *where]) == 2
    shown = capsys.readouterr()
    assert shown.err == "timestepper: error: Slurm did not take the jobs: error: no account\n"
    # How long it takes on this machine says nothing.
    assert "TSC_LSTM" in shown.out
    assert "minutes" not in shown.out
    asked = Path("asked").read_text()
    for option in ("partition=gpu", "qos=low", "array=0-3%3", "cpus-per-task=4", "time=1440"):
        assert f"#SBATCH --{option}\n" in asked


@pytest.mark.slow
def test_a_job_that_slurm_preempts_saves_waits_and_goes_on(slurm, weights):
    """Slurm sends SIGTERM to all processes and kills, or has SIGUSR2 sent and kills."""
    (planned,) = planned_runs(("tsc-lstm",))
    ended = threading.Event()

    def run_as_slurm_does():
        wait_for(Path("runs/cluster/smoke-cifar_resnet8-tsc-lstm-0.job").exists)
        script = ["bash", str(JOBS / "77_submission.sh")]
        environment = os.environ | {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
        first = subprocess.Popen(script, env=environment)
        wait_for(planned.run.metrics.exists, first)
        job, training = psutil.Process(first.pid).children(recursive=True)
        for process in (job, training):
            process.terminate()
        wait_for(lambda: "everything is saved" in planned.log.read_text(), first)
        time.sleep(1)
        assert job.is_running()
        job.send_signal(signal.SIGUSR2)
        first.wait()
        assert Path("scontrol.txt").read_text() == "requeue 77\n"
        subprocess.run(script, env=environment, check=True)
        ended.set()

    say("77|RUNNING|node")
    node = in_background(run_as_slurm_does)
    cluster = ClusterConfiguration("slurm", cpus=1)
    assert list(carry_out_on(cluster, [planned], 1, RUNS)) == [(planned, None)]
    node.join()
    assert ended.is_set()
    assert trained_weights([planned])["tsc-lstm"] == weights["tsc-lstm"]
