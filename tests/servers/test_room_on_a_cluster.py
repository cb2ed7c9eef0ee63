"""Room for workers, names of runs and lost samplers, on a real cluster of two nodes with two CPUs each."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import ray
import torch
from ray._raylet import Config
from ray.cluster_utils import Cluster
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from real_cluster import PATIENCE, meanwhile, named, wait_until

from l2c_ray.config.learn import ClusterSection
from l2c_ray.config.sampling import SamplingConfig
from l2c_ray.distributed import cluster
from l2c_ray.distributed.run_monitor import open_monitor
from l2c_ray.distributed.sampling import ClusterSampler
from l2c_ray.errors import ConfigError, LearningError, ResourcesError
from l2c_ray.evaluation.frontier import Candidate

CLAIM = """
import time
from l2c_ray.distributed import cluster
from l2c_ray.distributed.run_monitor import open_monitor

cluster.connect()
with open_monitor("mine"):
    print("claimed", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module", autouse=True)
def two_nodes() -> Iterator[Cluster]:
    """This process is a driver on them. Ray's own mock of a GPU is a number that nobody checks."""
    # Another module's cluster may be what this process is connected to, and lets in with a token.
    ray.shutdown()
    Config.initialize("")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0})
    with pytest.MonkeyPatch.context() as patch:
        try:
            nodes.add_node(num_cpus=2, num_gpus=1)
            patch.setenv("RAY_ADDRESS", nodes.address)
            cluster.connect()
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


def wanted(workers: int, cpus: int, wait_seconds: int = 0) -> ClusterSection:
    return ClusterSection(workers=workers, cpus_per_worker=cpus, wait_seconds=wait_seconds)


@contextmanager
def held(cpus: int) -> Iterator[PlacementGroup]:
    group = placement_group([{"CPU": cpus}])
    assert group.wait(PATIENCE)
    yield group
    remove_placement_group(group)


@pytest.mark.parametrize(("workers", "cpus"), [(4, 1), (2, 2), (1, 1)])
def test_workers_that_fit_find_room_and_the_check_for_it_holds_none(workers: int, cpus: int) -> None:
    cluster.require(wanted(workers, cpus))
    # What the test before gave back may take Ray a moment.
    cluster.wait_for_room(wanted(workers, cpus, wait_seconds=PATIENCE))
    wait_until(lambda: ray.available_resources().get("CPU") == 4)


def test_worker_larger_than_every_node_is_refused() -> None:
    with pytest.raises(ResourcesError, match=r"^cluster.cpus_per_worker: .* 3 CPUs .* largest node has 2"):
        cluster.require(wanted(1, 3))


@pytest.mark.parametrize(("workers", "cpus", "room"), [(5, 1, 4), (3, 2, 2)])
def test_more_workers_than_there_are_places_are_refused(workers: int, cpus: int, room: int) -> None:
    with pytest.raises(ResourcesError, match=rf"^cluster.workers: {workers} workers .* have room for {room}"):
        cluster.require(wanted(workers, cpus))


def test_workers_get_gpus_where_each_finds_one() -> None:
    assert cluster.needs_of_a_worker(wanted(1, 2)) == {"CPU": 2, "GPU": 1}
    assert cluster.needs_of_a_worker(wanted(2, 1)) == {"CPU": 1}


def test_busy_cluster_is_told_and_given_up_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_NOTICE_SECONDS", 0)
    with held(2), pytest.raises(ResourcesError) as caught:
        cluster.wait_for_room(wanted(2, 2, wait_seconds=2))
    assert str(caught.value).startswith("cluster.workers: 2 workers of 2 CPU found no room for 2 s, 2 of 4 CPU")
    (told,) = caplog.messages
    assert told.startswith("waiting for room for 2 workers of 2 CPU: 2 of 4 CPU")


def test_room_that_others_give_back_is_taken() -> None:
    with held(2) as group:

        def give_back() -> None:
            wait_until(lambda: any(each["state"] == "PENDING" for each in placement_group_table().values()))
            remove_placement_group(group)

        with meanwhile(give_back):
            cluster.wait_for_room(wanted(2, 2, wait_seconds=PATIENCE))


def test_lost_sampler_is_replaced_as_often_as_is_allowed_and_no_more() -> None:
    values = {"model": {"name": "digits-dit"}, "sampler": {}, "cluster": {"max_failures": 1}, "batch_size": 1}
    full = Candidate("full", "full", 2, None, 1.0)
    with ClusterSampler(SamplingConfig.parse(values, source="test")) as sample:
        first = sample(full, [3], [7])[0]
        assert first.shape == (1, 1, 8, 8)
        kill_sampler()
        assert torch.equal(sample(full, [3], [7])[0], first)
        kill_sampler()
        with pytest.raises(LearningError, match=r"^sampling: failed on a worker"):
            sample(full, [3], [7])


def kill_sampler() -> None:
    (sampler,) = named(psutil.Process().children(recursive=True), "_ShardSampler")
    sampler.kill()
    sampler.wait(PATIENCE)


def test_second_job_on_a_run_is_refused_until_the_first_has_ended() -> None:
    refused = pytest.raises(ConfigError, match=r"^run.name: another job is working on run mine")
    with open_monitor("mine"), open_monitor("other"), refused, open_monitor("mine"):
        pytest.fail("two have the name")
    with open_monitor("mine") as monitor:
        assert ray.get(monitor.take.remote()) == {}


def test_name_of_a_run_is_free_again_when_its_driver_has_died() -> None:
    driver = subprocess.Popen([sys.executable, "-c", CLAIM], stdout=subprocess.PIPE, text=True, env=os.environ)
    assert driver.stdout
    assert driver.stdout.readline() == "claimed\n"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    with open_monitor("mine", wait_seconds=PATIENCE):
        pass
