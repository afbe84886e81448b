"""One run in a folder at a time, and none shut out by a run that is over."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files import lock, processes
from dark_miner.darkminer.files.processes import Process, this_process
from dark_miner.darkminer.files.run_files import LOCK, numbered

posix = pytest.mark.skipif(os.name != "posix", reason="forks")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(lock, "_PAUSE", 0.001)


@pytest.fixture
def child():
    """A process that runs until it is killed."""
    running = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    yield running
    running.kill()
    running.wait()


def of(pid):
    return Process(this_process().host, pid, processes._seen(pid) or "")


def leave(folder, process, number=1, **changes):
    """A lock as ``process`` would have left it."""
    said = {"process": asdict(process), "since": "2026-01-02 03:04:05 UTC", "token": "t"} | changes
    (folder / f"lock-{number:06d}.json").write_text(json.dumps(said))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_one_runs_until_it_gives_it_back(tmp_path):
    held = lock.take(tmp_path, "runs/ink")
    held.check()
    with pytest.raises(DarkMinerError, match="'runs/ink' is in use by this process on .* since 20"):
        lock.take(tmp_path, "runs/ink")
    held.release()
    lock.take(tmp_path, "runs/ink").release()
    assert names(tmp_path) == ["lock-000002.json"]


def test_a_run_that_lives_is_named(tmp_path, child):
    owner = of(child.pid)
    assert owner.started and not owner.is_over
    leave(tmp_path, owner)
    with pytest.raises(DarkMinerError) as caught:
        lock.take(tmp_path, "ink", elsewhere_over=True)
    assert str(caught.value) == (
        f"The run folder 'ink' is in use by process {child.pid} on {owner.host!r} since 2026-01-02 "
        "03:04:05 UTC: wait until that run ends or stop it, or name another folder."
    )


@pytest.mark.parametrize("waited_for", [True, False])
def test_a_run_that_was_killed_leaves_its_folder_free(tmp_path, child, waited_for):
    leave(tmp_path, of(child.pid))
    child.send_signal(signal.SIGKILL)
    if waited_for:
        child.wait()
    for _ in range(200):
        if processes._seen(child.pid) is None:  # also while nobody has asked for its end
            break
        time.sleep(0.01)
    lock.take(tmp_path, "ink").check()


@pytest.mark.parametrize("started", ["another-boot/17", "12.34"])
def test_a_process_id_that_came_again_is_not_the_run(tmp_path, child, started):
    for process in (of(child.pid), this_process()):
        leave(tmp_path, replace(process, started=started))
        lock.take(tmp_path, "ink").release()
        for path in tmp_path.iterdir():
            path.unlink()


def test_what_this_process_has_left_behind_is_free(tmp_path):
    leave(tmp_path, this_process())
    lock.take(tmp_path, "ink").release()


def test_a_machine_that_cannot_be_asked_is_named_with_the_file(tmp_path):
    leave(tmp_path, Process("elsewhere", 4711, "x"), number=7)
    with pytest.raises(
        DarkMinerError, match="process 4711 on 'elsewhere' .* delete lock-000007.js"
    ):
        lock.take(tmp_path, "ink")
    lock.take(tmp_path, "ink", elsewhere_over=True)
    assert names(tmp_path) == ["lock-000008.json"]


def test_a_run_whose_folder_was_taken_goes_no_further(tmp_path, child):
    held = lock.take(tmp_path, "ink")
    leave(tmp_path, of(child.pid), number=2)
    with pytest.raises(DarkMinerError, match=f"Process {child.pid} has taken the run folder 'ink'"):
        held.check()
    held.release()
    assert json.loads((tmp_path / "lock-000002.json").read_text())["token"] == "t"
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(DarkMinerError, match="Somebody has taken"):
        held.check()
    tmp_path.rmdir()
    with pytest.raises(DarkMinerError, match="cannot be written .*: see where it has gone"):
        held.check()


def test_who_slept_while_others_came_and_went_does_not_hold_it(tmp_path, monkeypatch):
    """Between the look at the newest lock and the next file there may be hours."""
    create, asleep = lock.create_whole, [True]

    def late(path, parts):
        if asleep:
            asleep.clear()
            others = lock.take(tmp_path, "ink")  # makes the file that is about to be made
            others.release()
            lock.take(tmp_path, "ink")  # and makes away with it
        return create(path, parts)

    monkeypatch.setattr(lock, "create_whole", late)
    with pytest.raises(DarkMinerError, match="in use by this process"):
        lock.take(tmp_path, "ink")
    assert names(tmp_path) == ["lock-000002.json"]


@posix
@pytest.mark.parametrize("links", [True, False])
def test_of_many_that_come_at_once_one_holds_it(tmp_path, links, monkeypatch, child):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "no links")))
    child.kill()
    child.wait()
    for turn in range(10):
        folder = tmp_path / str(turn)
        folder.mkdir()
        leave(folder, Process(this_process().host, child.pid, "x"))
        started = []
        for _ in range(6):
            pid = os.fork()
            if not pid:
                _contend(folder)
            started.append(pid)
        ends = [_end(os.wait()) for _ in range(5)]
        (folder / "others-are-refused").touch()
        assert sorted([*ends, _end(os.wait())]) == [0] + [3] * 5
        assert len(numbered(folder, LOCK)) == 1


def _end(waited):
    return os.waitstatus_to_exitcode(waited[1])


def _contend(folder):
    """In a forked process: 0 where the folder is held, 3 where it is refused."""
    end = 9
    try:
        held = lock.take(folder, "ink")
        for _ in range(1000):
            if (folder / "others-are-refused").exists():
                break
            time.sleep(0.02)
        held.check()
        end = 0
    except DarkMinerError:
        end = 3
    finally:
        os._exit(end)


@posix
def test_a_fork_does_not_hold_what_its_parent_holds(tmp_path):
    held = lock.take(tmp_path, "ink")
    pid = os.fork()
    if not pid:
        end = 9
        try:
            held.release()
            held.check()
        except DarkMinerError:
            end = 3
        finally:
            os._exit(end)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    held.check()


@pytest.mark.parametrize("content", [
    b"", b"{", b"\xff\xfe", b"[]", b"{}", b"null", b"x" * 5000, b'{"released": false}',
    b'{"process": {"host": "a", "pid": "1", "started": ""}, "since": "", "token": ""}',
    b'{"process": {"host": "a", "pid": 1, "started": ""}, "since": "\\n\\n", "token": ""}',
    b'{"process": {"host": "a", "pid": true, "started": ""}, "since": "", "token": ""}',
])  # fmt: skip
def test_a_lock_that_nobody_can_read_holds_nothing(tmp_path, content):
    (tmp_path / "lock-000004.json").write_bytes(content)
    lock.take(tmp_path, "ink").check()
    assert names(tmp_path) == ["lock-000005.json"]


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**70])
def test_no_such_process_id_is_asked_for(tmp_path, pid):
    leave(tmp_path, replace(this_process(), pid=pid))
    lock.take(tmp_path, "ink").check()


@posix
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda p: os.symlink("/dev/zero", p)])
def test_a_lock_that_is_no_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "lock-000001.json")
    lock.take(tmp_path, "ink").check()


def test_a_number_that_has_no_follower_is_one_sentence(tmp_path):
    (tmp_path / f"lock-{10**15 - 1}.json").write_bytes(b"{}")
    with pytest.raises(DarkMinerError, match="has no numbers left"):
        lock.take(tmp_path, "ink")


def test_the_hosts_psutil_says_what_proc_says_elsewhere(child):
    pytest.importorskip("psutil")
    assert processes._of_psutil(child.pid) == processes._of_psutil(child.pid) != ""
    child.kill()
    assert processes._of_psutil(child.pid) in (None, "") or child.wait()
    child.wait()
    assert processes._of_psutil(child.pid) is None


def test_without_psutil_a_process_that_runs_holds_its_folder(tmp_path, monkeypatch, child):
    monkeypatch.setattr(processes.sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "psutil", None)
    leave(tmp_path, replace(of(child.pid), started="x"))
    with pytest.raises(DarkMinerError, match="is in use by process"):
        lock.take(tmp_path, "ink")
    child.kill()
    child.wait()
    lock.take(tmp_path, "ink").check()
