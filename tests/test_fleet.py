"""The fleet without a host: plans as they are read, the table of results, processes that die."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.fleet.making import make_plan, save_plan
from dark_miner.fleet.places import (
    bring_out,
    check_writable,
    here,
    is_url,
    read_there,
    stamp,
)
from dark_miner.fleet.process import run_row
from dark_miner.fleet.reading import plan_of, read_plan
from dark_miner.fleet.results import FILE, Results

PLAN = {
    "output": "out", "checkpoints": {"g": "gallery", "a": "models/a.safetensors"},
    "machine": {"ray": "off"},
}  # fmt: skip


def plan(rows, beside=Path("/plans"), **more):
    return plan_of({**PLAN, "rows": rows, **more}, beside)


def test_lists_of_a_row_are_crossed_and_defaults_stand_behind_it():
    crossed = plan(
        [{"checkpoint": ["g", "a"], "concept": ["ink", "noto"], "seed": [0, 1],
          "settings": {"mine.steps": 5, "lora.layers": "values"}}, {"checkpoint": "g"}],
        defaults={"concept": "flat", "settings": {"mine.steps": 3, "max_rounds": 2}},
    )  # fmt: skip
    assert crossed.faults == ()
    rows = [row for _, row in crossed.rows]
    assert len(rows) == 9 and len({(r.checkpoint, r.concept, r.seed) for r in rows}) == 9
    assert rows[0].settings == {"mine.steps": "5", "max_rounds": "2", "lora.layers": "values"}
    assert rows[-1].concept == "flat" and rows[-1].settings["mine.steps"] == "3"
    assert rows[4].source == "/plans/models/a.safetensors" and rows[0].source == "gallery"
    assert [where for where, _ in crossed.rows] == ["row 1"] * 8 + ["row 2"]


def test_a_rows_name_and_digest_say_what_it_is():
    (_, one), (_, other) = plan([{"checkpoint": "g", "concept": "Van Gogh", "seed": [0, 1]}]).rows
    whole = one.whole(32)
    assert (whole.name, whole.template, whole.width) == ("g-van-gogh-fast-0", "a * drawing", 32)
    assert whole.digest("x") == one.whole(32).digest("x")
    assert len({whole.digest("x"), whole.digest("y"), other.whole(32).digest("x")}) == 3
    assert type(whole).of(json.loads(json.dumps(whole.plain()))) == whole


@pytest.mark.parametrize(
    "text, says",
    [
        ("output: [", "is no YAML"),
        ("- 1", "holds no names and values"),
        ("output: a\noutput: b", "line 2: 'output' stands twice"),
        ("!!python/object/apply:os.getcwd []", "is no YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_plan_is_one_sentence(tmp_path, text, says):
    if text is not None:
        (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(DarkMinerError, match=says):
        read_plan(tmp_path / "plan.yaml")


def test_a_plan_is_made_of_a_folder_and_a_list(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    words = tmp_path / "words.txt"
    words.write_text("# styles\nvan gogh\n\nmonet\nmonet\n", encoding="utf-8")
    save_plan(make_plan(tmp_path, words), tmp_path / "plan.yaml")
    made = read_plan(tmp_path / "plan.yaml")
    assert made.faults == () and len(made.rows) == 4
    assert made.checkpoints["a"] == str(tmp_path / "a.safetensors")
    with pytest.raises(DarkMinerError, match="is there already"):
        save_plan("", tmp_path / "plan.yaml")
    words.write_text("#\n")
    with pytest.raises(DarkMinerError, match="holds no concept"):
        make_plan(tmp_path, words)


def result(digest, status="done", **more):
    return {"row": digest, "digest": digest, "status": status, **more}


def test_the_table_outlives_a_crash_in_the_middle_of_a_line(tmp_path):
    table = Results(tmp_path)
    table.add(result("a"))
    table.add(result("b", "failed", why="no"))
    whole = (tmp_path / FILE).read_bytes()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"row": "c", "digest": "c", "stat')
    again = Results(tmp_path)
    assert again.done("a") and not again.done("b") and not again.done("c")
    again.add(result("c"))
    again.add(result("b"))
    again.add(result("a", "failed", why="a later try"))
    assert (tmp_path / FILE).read_bytes().startswith(whole), "lines are only added"
    last = Results(tmp_path)
    assert all(last.done(name) for name in "abc"), "what is done stays done"


def test_a_table_learns_what_another_machine_has_done(tmp_path):
    one, other = Results(tmp_path / "one"), Results(tmp_path / "other")
    one.add(result("a"))
    one.add(result("b", "failed", why="no"))
    other.add(result("b"))
    other.add(result("c", "failed", why="no"))
    one.learn((tmp_path / "other" / FILE).read_bytes() + b'{"row": "d", "dig')
    again = Results(tmp_path / "one")
    assert [again.done(name) for name in "abcd"] == [True, True, False, False]
    assert again.of("c")["c"]["why"] == "no"
    before = (tmp_path / "one" / FILE).read_bytes()
    again.learn((tmp_path / "other" / FILE).read_bytes())
    assert (tmp_path / "one" / FILE).read_bytes() == before, "what is known is not written again"


def test_files_go_to_a_url_and_come_from_one(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a" * 100_000)
    url = f"file://{tmp_path}/there"
    bring_out(tmp_path, ["a.txt"], url)
    assert (tmp_path / "there" / "a.txt").read_bytes() == b"a" * 100_000
    brought = here(f"{url}/a.txt", tmp_path / "cache")
    assert brought.read_bytes() == b"a" * 100_000 and brought.parent == tmp_path / "cache"
    assert here(f"{url}/a.txt", tmp_path / "cache") == brought
    assert stamp(f"{url}/a.txt") == stamp(str(tmp_path / "a.txt"))
    assert read_there(url, "a.txt") == b"a" * 100_000 and read_there(url, "missing.txt") == b""
    check_writable(url)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a.txt"]
    for unwritable in (f"{url}/a.txt", f"file://{tmp_path}/there/a.txt/below"):
        with pytest.raises(DarkMinerError, match="cannot be written to .* name another one"):
            check_writable(unwritable)
    assert is_url("s3://x/y") and not is_url("C:/x") and not is_url("/x")
    with pytest.raises(DarkMinerError, match="cannot be opened"):
        here("nosuch://x/y", tmp_path)


def mortal(tmp_path, body):
    """A folder whose ``python -m fleet row`` does what ``body`` says."""
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "__main__.py").write_text(textwrap.dedent(body))
    return {
        "name": "r", "digest": "d", "row": {}, "root": str(tmp_path), "host": "",
        "folder": str(tmp_path / "row"), "url": "", "cache": "", "threads": 1, "retries": 2,
    }  # fmt: skip


def test_a_row_whose_process_is_killed_begins_again(tmp_path):
    found = run_row(mortal(tmp_path, """
        import json, os, pathlib, signal, sys
        task = json.loads(sys.stdin.buffer.readline())
        tried = pathlib.Path(task["folder"]) / "tried"
        if not tried.exists():
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        print(json.dumps({"status": "done", "verdict": "gone"}))
    """))  # fmt: skip
    assert (found["status"], found["attempts"], found["digest"]) == ("done", 2, "d")


def test_a_row_that_always_dies_says_so(tmp_path):
    found = run_row(mortal(tmp_path, "import sys; sys.exit('no room')"))
    assert (found["status"], found["attempts"]) == ("failed", 3)
    assert "exit status 1" in found["why"] and "log.txt" in found["why"]
    assert "no room" in (tmp_path / "row" / "log.txt").read_text()


def test_a_row_ends_with_the_process_that_started_it(tmp_path):
    """The row's own reader of its pipe; else another machine would work beside it."""
    root = Path(__file__).resolve().parents[1]
    code = """
        import sys, threading, time
        sys.path.insert(0, sys.argv[1])
        from dark_miner_fleet import _end_with_parent
        threading.Thread(target=_end_with_parent, daemon=True).start()
        print("up", flush=True)
        time.sleep(60)
    """
    # The function alone: the module it stands in would bring torch.
    source = (root / "fleet" / "doing.py").read_text()
    start = source.index("def _end_with_parent")
    (tmp_path / "dark_miner_fleet.py").write_text("import os\n" + source[start:].split("\n\n\n")[0])
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout.readline() == b"up\n"
    child.stdin.close()
    assert child.wait(20) == 3
    child.stdout.close()
