"""A run's folder: whatever ends a save in the middle leaves a whole state."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files.run_folder import RunFolder, read_run

from .run_values import files, names, number_of, saved, three

__all__ = ["three"]

ROOT = Path(__file__).resolve().parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="forks")


def failing_at(call, monkeypatch, error):
    """From the ``call``-th call on that writes, the system refuses; returns the calls made."""
    made = []

    def watched(name, real):
        def refuse(*args, **kwargs):
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            made.append(name)
            if len(made) > call:
                raise OSError(error, os.strerror(error))
            return real(*args, **kwargs)

        return refuse

    for name in ("open", "write", "fsync", "replace", "link", "mkdir"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    return made


@pytest.mark.parametrize("error, remedy", [
    (errno.ENOSPC, "make room on its disk"), (errno.EDQUOT, "make room on its disk"),
    (errno.EROFS, "check who may use it"), (errno.EACCES, "check who may use it"),
    (errno.EIO, "check its disk"),
])  # fmt: skip
def test_a_disk_that_refuses_at_any_call_leaves_the_state(tmp_path, three, error, remedy):
    before, failures = files(three), 0
    folder = RunFolder.open(tmp_path, "ink")
    for call in range(200):
        with pytest.MonkeyPatch.context() as patch:
            made = failing_at(call, patch, error)
            try:
                folder.save(saved(4))
            except DarkMinerError as said:
                assert str(said) == (
                    f"The run folder 'ink' cannot be written ({os.strerror(error)}): {remedy}; "
                    "what was saved before is intact."
                )
                failures += 1
        if len(made) <= call:
            break
        if "state-000004.json" in names(three):  # it was there when the disk refused
            assert number_of(read_run(tmp_path, "ink")) == 4
            break
        assert files(three) == before
    assert failures > 15
    folder.save(saved(4))
    assert number_of(read_run(tmp_path, "ink")) == 4
    folder.close()
    assert number_of(RunFolder.open(tmp_path, "ink").state) == 4


def test_a_folder_that_has_gone_is_named_and_not_made_anew(tmp_path, three):
    with RunFolder.open(tmp_path, "ink") as folder:
        three.rename(tmp_path / "away")
        with pytest.raises(DarkMinerError, match="'ink' cannot be written .*: see where it has go"):
            folder.save(saved(4))
        assert not three.exists()
        (tmp_path / "away").rename(three)
        folder.save(saved(4))
    assert number_of(read_run(tmp_path, "ink")) == 4


def test_a_folder_that_another_run_has_taken_is_not_written_to(tmp_path, three):
    with RunFolder.open(tmp_path, "ink") as folder:
        with pytest.raises(DarkMinerError, match="in use by this process"):
            RunFolder.open(tmp_path, "ink")
        (three / "lock-000009.json").write_bytes(b"{}")
        before = files(three)
        with pytest.raises(DarkMinerError, match="has taken the run folder 'ink'"):
            folder.save(saved(4))
        assert files(three) == before


@posix
def test_a_process_that_ends_at_any_call_leaves_a_whole_state(tmp_path, three):
    """The process is gone in the middle of a write, before a rename, after it: all there is."""
    whole, ends = files(three), []
    for call in range(400):
        shutil.rmtree(three)
        three.mkdir()
        for name, data in whole.items():
            (three / name).write_bytes(data)
        pid = os.fork()
        if not pid:
            _end_at(call, tmp_path)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        state = read_run(tmp_path, "ink")
        assert state.notes == []
        ends.append(number_of(state))
        with RunFolder.open(tmp_path, "ink") as folder:
            assert number_of(folder.state) == ends[-1]
            folder.save(saved(ends[-1] + 1))
        assert number_of(read_run(tmp_path, "ink")) == ends[-1] + 1
        if ended == 0:
            break
        assert ended == 77
    assert ends == sorted(ends) and {3, 4} == set(ends) and len(ends) > 60


def _end_at(call, root):
    """In a forked process: a save, and its end at the ``call``-th call; a write is half done."""
    left = [call]

    def watched(name, real):
        def last(*args, **kwargs):
            if not left[0]:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os._exit(77)
            left[0] -= 1
            return real(*args, **kwargs)

        return last

    try:
        for name in ("open", "write", "fsync", "close", "replace", "link", "remove", "mkdir"):
            setattr(os, name, watched(name, getattr(os, name)))
        folder = RunFolder.open(root, "ink")
        folder.save(saved(4))
        folder.close()
        os._exit(0)
    finally:
        os._exit(9)


def test_what_a_killed_run_has_left_is_cleared_away(tmp_path, three):
    whole = names(three)
    for name in (f".{'a' * 32}.tmp", "embeddings-000004.safetensors"):
        (three / name).write_bytes(b"x" * 5000)
    (three / f".{'b' * 32}.tmp").write_bytes(b"somebody asks for the lock")
    old = three / f".{'c' * 32}.tmp"
    old.write_bytes(b"")
    os.utime(old, (time.time() - 1000,) * 2)
    (three / "mine.txt").write_bytes(b"a person's")
    RunFolder.open(tmp_path, "ink").close()
    assert names(three) == sorted([*whole, f".{'b' * 32}.tmp", "mine.txt"])


WRITER = """
import os, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests import conftest
from dark_miner.darkminer.files.run_folder import RunFolder
from tests.run_values import number_of, saved

place = Path(sys.argv[1])
for line in sys.stdin:  # each line asks for one process that saves until it is killed
    pid = os.fork()
    if not pid:
        folder = RunFolder.open(place, "ink")
        number = number_of(folder.state) if folder.state else 0
        while True:
            number += 1
            folder.save(saved(number, size=2000))
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


@posix
def test_a_process_that_is_killed_at_any_moment_loses_one_save_at_most(tmp_path):
    nursery = subprocess.Popen(
        [sys.executable, "-P", "-c", WRITER.format(root=str(ROOT)), str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert nursery.stdin is not None and nursery.stdout is not None
    dice, last, moved = random.Random(0), 0, 0
    try:
        for _ in range(30):
            nursery.stdin.write("one\n")
            nursery.stdin.flush()
            pid = int(nursery.stdout.readline())
            time.sleep(0.03 + dice.random() * 0.15)
            os.kill(pid, signal.SIGKILL)
            assert nursery.stdout.readline() == "ended\n"
            if not last and not list((tmp_path / "ink").glob("state-*")):
                continue  # killed before the first save
            state = read_run(tmp_path, "ink")
            assert state.notes == [] and number_of(state) >= last
            moved += number_of(state) > last
            last = number_of(state)
            assert state.number == last
    finally:
        nursery.stdin.close()
        nursery.wait(60)
    assert last > 15 and moved > 8
    with RunFolder.open(tmp_path, "ink") as folder:  # the last one's lock is stale
        assert number_of(folder.state) == last
        folder.save(saved(last + 1))
    left = [path for path in (tmp_path / "ink").iterdir() if path.suffix == ".tmp"]
    assert all(path.stat().st_size <= 4096 for path in left)  # small ones go when they are old


FULL_DISK = """
import subprocess, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests import conftest
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files.run_folder import RunFolder, read_run
from tests.run_values import number_of, saved

root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", root], check=True)
folder, number = RunFolder.open(root, "ink"), 0
try:
    while number < 100:
        folder.save(saved(number + 1, size=8000))
        number += 1
except DarkMinerError as error:
    print(error)
assert number_of(read_run(root, "ink")) == number_of(folder.state) == number > 3
folder.save({{}}, drop=[])  # a small one fits
(root / "ink" / "state-000001.json").unlink(missing_ok=True)
subprocess.run(["mount", "-o", "remount,size=4m", root], check=True)
folder.save(saved(number + 1, size=8000))
assert number_of(read_run(root, "ink")) == number + 1
subprocess.run(["mount", "-o", "remount,ro", root], check=True)
try:
    folder.save(saved(number + 2))
except DarkMinerError as error:
    print(error)
folder.close()
try:
    RunFolder.open(root, "ink")
except DarkMinerError as error:
    print(error)
assert number_of(read_run(root, "ink")) == number + 1
"""


def may_mount():
    try:
        return subprocess.run(["unshare", "--mount", "--map-root-user", "true"]).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not may_mount(), reason="nobody but root may mount a small disk here")
def test_a_disk_that_is_full_and_then_read_only_leaves_the_state(tmp_path):
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", sys.executable, "-P", "-c",
         FULL_DISK.format(root=str(ROOT)), str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    full, read_only, again = done.stdout.splitlines()
    assert full.endswith("): make room on its disk; what was saved before is intact.")
    assert "Read-only" in read_only and "Read-only" in again
    assert list(tmp_path.iterdir()) == []  # that disk has gone with its process
