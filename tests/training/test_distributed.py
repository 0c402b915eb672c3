"""All processes of a group get identical bits, and the loss of a process is reported."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import Pipe

import pytest
import torch
from toys import toy_config

from verbot.errors import TrainingError
from verbot.parallel.workers import Channel
from verbot.training import train_policy
from verbot.training.distributed.process_group import ProcessGroup, torch_threads


class Link:
    """Rank 0's end of a rank worker that runs in a thread of this process."""

    def __init__(self, connection):
        self._connection = connection

    def receive(self):
        return self._connection.recv()[1]

    def send(self, value):
        self._connection.send(value)


def together(size: int, work):
    """Call `work(process_group)` in every process; the results by rank."""
    pipes = [Pipe() for _ in range(size - 1)]
    groups = [ProcessGroup(0, size, rank_workers=[Link(ours) for ours, _ in pipes])]
    groups += [ProcessGroup(rank, size, main=Channel(theirs)) for rank, (_, theirs) in enumerate(pipes, 1)]
    results = [None] * size

    def run(rank: int) -> None:
        results[rank] = work(groups[rank])

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    for ends in pipes:
        for end in ends:
            end.close()
    return results


@pytest.mark.parametrize("size", [1, 2, 3])
def test_averages_are_means_and_the_same_bits_for_everyone(size):
    def work(process_group):
        out = []
        for turn in range(4):
            generator = torch.Generator().manual_seed(10 * turn + process_group.rank)
            long, short = torch.randn(1000, generator=generator), torch.randn(3, generator=generator)
            parts = (long, short) if turn % 2 else (short,)
            process_group.average(*parts)
            out.append([part.clone() for part in parts])
        return out

    results = together(size, work)
    for turn in range(4):
        draws = []
        for rank in range(size):
            generator = torch.Generator().manual_seed(10 * turn + rank)
            draws.append((torch.randn(1000, generator=generator), torch.randn(3, generator=generator)))
        for part in range(2 if turn % 2 else 1):
            expected = torch.stack([d[part if turn % 2 else 1] for d in draws]).mean(0)
            torch.testing.assert_close(results[0][turn][part], expected)
            assert all(torch.equal(result[turn][part], results[0][turn][part]) for result in results)


def test_everyone_agrees_with_the_leader():
    assert together(3, lambda process_group: process_group.broadcast(process_group.rank + 7)) == [7, 7, 7]


def test_no_shared_file_keeps_a_name(tmp_path, monkeypatch):
    from verbot.training.distributed import process_group

    made, genuine = [], process_group._shared_file
    monkeypatch.setattr(process_group, "_shared_file", lambda size: made.append(genuine(size)) or made[-1])
    together(2, lambda process_group: process_group.average(torch.ones(10)))
    assert made
    assert not any(os.path.exists(path) for path in made)


def test_a_rank_worker_that_dies_ends_the_run_with_an_error(toy, tmp_path, monkeypatch):
    from verbot.training.distributed import process_group
    from verbot.training.imitation import loop

    genuine, started = process_group.workers, []

    def watched(*args):
        context = genuine(*args)

        class Watched:
            def __enter__(self):
                started.extend(context.__enter__())
                return started

            def __exit__(self, *error):
                return context.__exit__(*error)

        return Watched()

    def killing(session, *details):
        if session.state.step == 2:
            os.kill(started[0].process.pid, signal.SIGKILL)
        return loop_descend(session, *details)

    loop_descend = loop._compute_gradients
    monkeypatch.setattr(process_group, "workers", watched)
    monkeypatch.setattr(loop, "_compute_gradients", killing)
    with pytest.raises(TrainingError, match="one of its processes did: training process 1 ended early with exit code -9"):
        train_policy(toy_config(toy, processes=2, steps=50), tmp_path, progress=False)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with torch_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
