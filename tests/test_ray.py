"""hydra/launcher=ray on real clusters: two nodes of which one dies, workers that are killed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from rnnbench.record import read_metrics, read_result
from tests.test_app import jobs, numbers, start

pytest.importorskip("ray", reason="Ray is not here: rnnbench[ray]")
QUIET = ["tracking.uri=null", "data.train_size=128", "model.hidden_size=6"]
TWO = ["-m", "model=lstm", "seed=0,1", "fit.epochs=1500", "hydra.sweep.dir=s", *QUIET]
RAY = ["hydra/launcher=ray", "hydra.launcher.max_stack=1"]  # two stacks
TASK = "ray::train_stack"  # what Ray calls a process that runs one
PATIENCE = 300  # seconds


@pytest.fixture(scope="module")
def ray_home():
    """Everything that Ray reads and leaves, in a folder of its own; sockets need its path to be short."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # a token there would be asked for
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # all servers on 127.0.0.1
        patch.setenv("RAY_worker_niceness", "0")  # beside other tests, workers come to nothing at Ray's 15
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def head(ray_home):
    """A cluster of one node with one core."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_log_monitor": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def two_nodes(head):
    """The cluster with a second node, of one core too, and what it is called in a command."""
    node = head.add_node(num_cpus=1)
    yield head, node, f"hydra.launcher.address={head.address}"
    if node in head.worker_nodes:
        head.remove_node(node)


def raylet(node):
    """The process of a node that the node's workers are children of."""
    (info,) = node.all_processes["raylet"]
    return psutil.Process(info.process.pid)


def workers(process):
    """The processes below this one that train a stack now."""
    found = []
    for child in process.children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith(TASK):
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


def until(condition, process):
    """Wait for a condition while the command runs."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)


def ended(process, code=0):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, out + err
    return out, err


def in_training(node, sweep):
    """The process of a node that trains a stack of the sweep and has written an epoch, or None."""
    for worker in workers(raylet(node)):
        held = [Path(file.path) for file in worker.open_files() if file.path.endswith(".lock")]
        for job in (sweep / lock.name.partition("-")[0] for lock in held if lock.parent.name == "stacks"):
            if (job / "metrics.csv").exists() and read_metrics(job):
                return worker
    return None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the launcher that trains in its own process makes of it."""
    folder = tmp_path_factory.mktemp("here")
    ended(start(folder, *TWO))
    return records(folder / "s")


def records(folder):
    """What the finished records of a sweep say, but for times; exactly one a trial."""
    results = [read_result(job) for job in jobs(folder)]
    assert {result["status"] for result in results} == {"finished"}
    assert len({result["trial"] for result in results}) == len(results)
    return [numbers(job) for job in jobs(folder)]


@pytest.mark.slow  # the next says the same of a sweep with faults
def test_two_nodes_give_the_numbers_of_one_process(two_nodes, tmp_path, undisturbed):
    cluster, node, address = two_nodes
    process = start(tmp_path, *TWO, *RAY, address, env=os.environ)
    at_work = set()
    while process.poll() is None:
        at_work |= {one for one in (node, cluster.head_node) if workers(raylet(one))}
        time.sleep(0.05)
    ended(process)
    assert at_work == {node, cluster.head_node}
    assert records(tmp_path / "s") == undisturbed
    assert (
        "2 of 2 trials are finished already" in ended(start(tmp_path, *TWO, *RAY, address, env=os.environ))[0]
    )


def test_a_killed_worker_and_a_dead_node_cost_no_trial(two_nodes, tmp_path, undisturbed):
    cluster, node, address = two_nodes
    process = start(tmp_path, *TWO, *RAY, address, env=os.environ)
    until(lambda: in_training(cluster.head_node, tmp_path / "s"), process)
    in_training(cluster.head_node, tmp_path / "s").kill()
    until(lambda: in_training(node, tmp_path / "s"), process)
    cluster.remove_node(node, allow_graceful=False)
    _, err = ended(process)
    assert err.count("sending it to Ray again") == 2
    assert records(tmp_path / "s") == undisturbed


@pytest.mark.slow
def test_a_worker_that_is_always_lost_fails_its_trial_alone(head, tmp_path, undisturbed):
    address = f"hydra.launcher.address={head.address}"
    process = start(tmp_path, *TWO, *RAY, address, "hydra.launcher.retries=1", env=os.environ)
    for _ in range(2):  # the first stack, then the second; of each the first attempt
        until(lambda: in_training(head.head_node, tmp_path / "s"), process)
        worker = in_training(head.head_node, tmp_path / "s")
        worker.kill()
        until(lambda dead=worker: not dead.is_running(), process)
    until(lambda: in_training(head.head_node, tmp_path / "s"), process)
    in_training(head.head_node, tmp_path / "s").kill()
    ended(process, code=1)
    results = [read_result(job) for job in jobs(tmp_path / "s")]
    (lost,) = [number for number, result in enumerate(results) if result["status"] == "failed"]
    assert "was lost (WorkerCrashedError)" in results[lost]["error"]
    assert numbers(jobs(tmp_path / "s")[1 - lost]) == undisturbed[1 - lost]


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_the_same_command_goes_on(two_nodes, tmp_path, undisturbed):
    cluster, node, address = two_nodes
    process = start(tmp_path, *TWO, *RAY, address, env=os.environ)
    until(lambda: in_training(cluster.head_node, tmp_path / "s"), process)
    process.send_signal(signal.SIGINT)
    ended(process, code=130)
    assert not workers(raylet(cluster.head_node)) + workers(raylet(node))
    assert "running" not in {read_result(job)["status"] for job in jobs(tmp_path / "s")}
    ended(start(tmp_path, *TWO, *RAY, address, env=os.environ))
    assert records(tmp_path / "s") == undisturbed


@pytest.mark.slow
def test_a_search_runs_its_trials_on_ray(two_nodes, tmp_path):
    _cluster, _node, address = two_nodes
    search = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.study_name=s", "hydra.sweeper.n_trials=6"]
    search += ["hydra.sweeper.n_jobs=2", "hydra.sweeper.confirm=1", "hydra/sweeper/pruner=asha"]
    space = ["optim.lr=tag(log,interval(1e-6,0.1))", "model=lstm", "fit.epochs=6"]
    out, _ = ended(start(tmp_path, *search, "hydra/launcher=ray", address, *space, *QUIET, env=os.environ))
    results = [read_result(tmp_path / "multirun/s" / str(n)) for n in range(6)]
    assert {result["status"] for result in results} <= {"finished", "pruned"}
    assert "python -m rnnbench" in out
    assert list((tmp_path / "multirun/s").glob("*.c0/result.json"))


def ray_processes(home):
    """The living processes that Ray has started with this folder."""
    found = []
    for process in psutil.process_iter(["environ", "cmdline"]):
        environ, words = process.info["environ"] or {}, " ".join(process.info["cmdline"] or [])
        if environ.get("RAY_TMPDIR") == str(home) and (
            "ray::" in words or "raylet" in words or "gcs" in words
        ):
            found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["ends", "killed"])
def test_a_cluster_for_one_sweep_is_heard_nowhere_and_ends_with_it(ray_home, tmp_path, undisturbed, kill):
    home = Path(tempfile.mkdtemp(prefix="ray"))
    environ = os.environ | {"RAY_TMPDIR": str(home), "HOME": str(home)}
    del environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]
    process = start(tmp_path, *TWO, *RAY, env=environ)
    until(lambda: workers(psutil.Process(process.pid)), process)
    servers = [*ray_processes(home), psutil.Process(process.pid)]
    heard = [c for one in servers for c in one.net_connections() if c.status == psutil.CONN_LISTEN]
    assert len(heard) > 3 and {c.laddr.ip.removeprefix("::ffff:") for c in heard} == {"127.0.0.1"}
    if kill:
        process.kill()
        process.communicate()
    else:
        ended(process)
        assert records(tmp_path / "s") == undisturbed
    end = time.monotonic() + 30
    while ray_processes(home) and time.monotonic() < end:
        time.sleep(0.1)
    assert not ray_processes(home)
    shutil.rmtree(home)


@pytest.mark.parametrize(
    "address, message",
    [
        ("127.0.0.1:1", "does not answer"),
        ("ray://127.0.0.1:10001", "must be HOST:PORT"),
    ],
)
def test_an_address_that_is_no_cluster_is_refused(tmp_path, address, message):
    _, err = ended(start(tmp_path, *TWO, *RAY, f"hydra.launcher.address={address}", env=os.environ), code=1)
    assert f"hydra.launcher.address={address}: {message}" in err
    assert "Traceback" not in err and not list(tmp_path.iterdir())


def test_without_ray_its_extra_is_named(tmp_path):
    hidden = "import sys; sys.modules['ray'] = None; from rnnbench.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hidden, *TWO, *RAY], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "pip install 'rnnbench[ray]'" in done.stderr
    assert not list(tmp_path.iterdir())
