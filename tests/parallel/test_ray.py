"""A cluster gives the same results as local processes, to the bit, even if a node is lost."""

from __future__ import annotations

import functools
import os
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from verbot.data import open_dataset
from verbot.errors import ConfigError, MissingDependencyError
from verbot.evaluation import EvaluationConfig, PolicySource, read_results, run_evaluation
from verbot.parallel import ray as clusters
from verbot.parallel.ray import open_cluster
from verbot.parallel.workers import WorkerDied, WorkerError
from verbot.rollout.collect import CollectConfig, DemonstrationSetup, collect, demonstrations

OPTIONS = {"image_size": 32}
MAKER = """
    import os, pathlib, time

    def make(folder):
        def answer(batch):
            import ray
            out = []
            for item in batch:
                with open(pathlib.Path(folder) / str(item), "a") as starts:
                    starts.write(ray.get_runtime_context().get_node_id() + "\\n")
                if item == "fatal":
                    os._exit(3)
                time.sleep(0.4)
                out.append(10 // item)
            return out
        return answer
"""
WORLD = """
    import time
    from toy_world import ToyEnv

    class SlowEnv(ToyEnv):
        def step(self, action):
            time.sleep(0.03)
            return super().step(action)
"""


def test_a_cluster_of_another_kind_and_one_without_ray_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="there is no cluster 'slurm'; expected 'ray', or 'ray:ADDRESS'"), open_cluster("slurm"):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'verbot\[ray\]'"), open_cluster("ray"):
        pass


class Nodes:
    """Two nodes of one core each on this machine; the second can be killed and replaced."""

    def __init__(self, ray, cluster):
        self.ray, self._cluster, self._second = ray, cluster, None

    def complete(self):
        self._second = self._second or self._cluster.add_node(num_cpus=1)
        deadline = time.monotonic() + 120
        while self.ray.cluster_resources().get("CPU", 0) != 2 and time.monotonic() < deadline:  # a lost node counts for a while
            time.sleep(0.1)
        assert self.ray.cluster_resources()["CPU"] == 2

    @property
    def second(self) -> str:
        return self._second.node_id

    def kill(self) -> None:
        lost, self._second = self._second, None
        self._cluster.remove_node(lost, allow_graceful=False)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    modules = tmp_path_factory.mktemp("modules")
    (modules / "maker.py").write_text(textwrap.dedent(MAKER))
    (modules / "slow_world.py").write_text(textwrap.dedent(WORLD))
    toys, source = Path(__file__).parents[1] / "evaluation", Path(clusters.__file__).parents[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (modules, toys, source))))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.syspath_prepend(str(modules))
        patch.syspath_prepend(str(toys))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        ray.init(address=cluster.address, log_to_driver=False, runtime_env={"env_vars": clusters.THREADS})
        yield Nodes(ray, cluster)
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def nodes(two):
    two.complete()
    return two


def test_tasks_of_a_lost_node_are_repeated_by_another(nodes, tmp_path):
    with open_cluster("ray") as opened:
        assert opened.cores == 2
        made, lost, items, killed = [], nodes.second, range(1, 61), False
        for answers in opened.in_order("maker:make", str(tmp_path), [[item] for item in items]):
            made += answers
            started = [path for path in tmp_path.glob("*") if lost in path.read_text()]
            if not killed and started and time.time() - max(path.stat().st_mtime for path in started) < 0.2:
                nodes.kill()  # during a task
                killed = True
    assert made == [10 // item for item in items]
    again = [places for item in items if len(places := (tmp_path / str(item)).read_text().split()) > 1]
    assert again and all(places[0] == lost != places[-1] for places in again)


def test_a_raised_error_and_a_killed_process_are_distinguished(nodes, tmp_path):
    with open_cluster("ray") as opened:
        with pytest.raises(WorkerError, match=r"(?s)a task on the cluster failed.*ZeroDivisionError"):
            list(opened.in_order("maker:make", str(tmp_path), [[1], [0]]))
        with pytest.raises(WorkerDied, match="lost 4 times"):
            list(opened.in_order("maker:make", str(tmp_path), [["fatal"]]))
    assert len((tmp_path / "fatal").read_text().split()) == 1 + clusters.RETRIES


def content(record):
    return record.instruction, record.states.tobytes(), record.actions.tobytes(), record.images["front"].tobytes()


def test_a_collection_on_a_cluster_equals_the_local_one_despite_a_lost_node(nodes, tmp_path):
    config = CollectConfig(seed=3, options=OPTIONS)
    setup = DemonstrationSetup(config, ("pick", "push", "put"))
    local = [found.record and content(found.record) for found in demonstrations(setup, range(16), 1)]
    far, killed = [], False
    for found in demonstrations(setup, range(16), 1, "ray"):
        far.append(found.record and content(found.record))
        if not killed:
            nodes.kill()
            killed = True
    assert far == local

    made = collect("tabletop-starter", tmp_path / "far", 3, seed=3, options=OPTIONS, cluster="ray", progress=False)
    saved = [each for each in local if each is not None][:3]
    found = [(e.instruction, e.states.tobytes(), e.actions.tobytes()) for e in open_dataset(made.path)]
    assert found == [each[:3] for each in saved]


def test_an_evaluation_on_a_cluster_equals_the_local_one_despite_a_lost_node(nodes, tmp_path):
    import slow_world
    import toy_world

    def evaluate(out: Path, cluster: str | None) -> None:
        source = PolicySource("toy policy", toy_world.listening, "listening")
        config = EvaluationConfig("toy", episodes=24, side_episodes=6, videos=2, latency_calls=5, workers=1, slots=2)
        run_evaluation(source, config, out, make=functools.partial(slow_world.SlowEnv), progress=False, cluster=cluster)

    def outcomes(out: Path) -> dict[str, tuple[object, ...]]:
        return {r.key: (r.outcome, r.steps, r.first_contact, r.actions) for r in read_results(out / "results.jsonl")}

    playing = threading.Thread(target=evaluate, args=(tmp_path / "far", "ray"))
    playing.start()
    results, deadline = tmp_path / "far" / "results.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (results.exists() and results.read_text().count("\n") >= 4):
        time.sleep(0.02)
    nodes.kill()
    before = results.read_text().count("\n")
    playing.join(timeout=120)
    evaluate(tmp_path / "near", None)
    assert outcomes(tmp_path / "far") == outcomes(tmp_path / "near")
    assert 4 <= before < len(outcomes(tmp_path / "near")), "the node was lost before the end"
    assert {r.outcome for r in read_results(results)} <= {"success", "failure"}
    videos = [(tmp_path / side / "report.html").read_text().count("<video") for side in ("far", "near")]
    assert videos[0] == videos[1]
