"""Workers end with the process that started them, and do not begin what it no longer wants."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from cxrtrek_lib import paths, pools

PARENT = """
import time
from cxrtrek_lib import pools
from tests import test_pools as here

if __name__ == "__main__":
    with pools.spawned(2) as pool:
        print(*pool.map(here.who, range(2)), flush=True)
        pool.submit(time.sleep, 600)  # one worker is busy, the other waits for a job
        time.sleep(600)
"""


def who(_) -> int:
    time.sleep(0.5)  # long enough for the other worker to take the other job
    return os.getpid()


def runs(pid: int) -> bool:
    """Is there such a process, other than one that has ended and waits to be told of?"""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    command = [sys.executable, tmp_path / "parent.py"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(set(workers)) == 2 and all(map(runs, workers))
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(runs, workers)))


def test_an_error_cancels_what_has_not_begun():
    with pytest.raises(ZeroDivisionError):
        with pools.spawned(1) as pool:
            jobs = [pool.submit(who, 0) for _ in range(50)]
            raise ZeroDivisionError
    wait_for(lambda: all(job.done() for job in jobs))
    assert sum(job.cancelled() for job in jobs) > 40


def test_every_worker_begins_as_told():
    with pools.spawned(2, begin, "begun") as pool:
        assert set(pool.map(told, range(4))) == {"begun"}


def begin(word: str) -> None:
    os.environ["CXRTREK_POOL"] = word


def told(_) -> str | None:
    return os.environ.get("CXRTREK_POOL")
