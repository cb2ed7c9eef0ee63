"""The process group of the workers' all-reduce, which listens at the node's address in the Ray cluster alone."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import ray.train
import ray.train.torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from ray.util import get_node_ip_address

# The same as torch.distributed's, which hides it from type checkers.
from torch._C._distributed_c10d import TCPStore


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the workers of the Ray Train run; a single one needs no group."""
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if workers == 1:
        yield
        return
    here = get_node_ip_address()
    if interface := _interface_of(here):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    backend = "nccl" if ray.train.torch.get_device().type == "cuda" else "gloo"
    dist.init_process_group(backend, store=_open_store(here, rank, workers), rank=rank, world_size=workers)
    yield
    # Not after an error: the others may hang or be gone, and Ray Train ends this process.
    dist.destroy_process_group()


def _open_store(here: str, rank: int, workers: int) -> TCPStore:
    """The store by which the workers find each other; torch's own default listens on every interface."""
    if rank == 0:
        listener = socket.create_server((here, 0), family=socket.AF_INET6 if ":" in here else socket.AF_INET)
        port = broadcast_from_rank_zero((here, listener.getsockname()[1]))[1]
        return TCPStore(here, port, workers, is_master=True, master_listen_fd=listener.detach())
    host, port = broadcast_from_rank_zero(None)
    return TCPStore(host, port, workers)


def _interface_of(address: str) -> str | None:
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return name
    return None
