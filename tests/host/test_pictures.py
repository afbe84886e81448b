"""Own pictures: folders and lists on a running server, and against the host's own loader."""

import asyncio
import importlib
import inspect
import os

import pytest
import torch
from PIL import Image

from ..test_picture_files import colours, grey16, rotated
from .conftest import script
from .test_nodes import failing, models_and_pool, node

pytestmark = pytest.mark.host

SETTING = "DARKMINER_PICTURE_FOLDERS"


@pytest.fixture
def place(comfy, request):
    """A new folder in the server's input folder."""
    folder = comfy.output.parent / "input" / request.node.name.split("[")[0]
    folder.mkdir()
    return folder


def prompt(**changes):
    """A pool, its preview and a node behind the pool that says how often it ran."""
    return models_and_pool(**changes) | {"look": node("PreviewImage", images=["pool", 1])}


def ran(comfy, work):
    """The nodes that a prompt ran, and what it put out."""
    seen = set()

    def watch(kind, data):
        if kind == "executing" and data.get("node"):
            seen.add(data["node"])

    outputs = comfy.run(work, watch)
    return seen, outputs


@pytest.mark.parametrize("ending, near", [("png", 0.0), ("jpg", 0.03), ("webp", 0.03)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_pictures_are_read_as_load_image_reads_them(hosted, tmp_path, mode, ending, near):
    if ending == "jpg" and mode == "RGBA":
        mode = "CMYK"
    path = tmp_path / f"p.{ending}"
    colours((64, 32)).convert(mode).save(path, quality=95, lossless=False)
    assert (ours(path) - the_hosts(path)).abs().max() <= near + 0.004


@pytest.mark.parametrize("make, name", [(rotated, "p.jpg"), (grey16, "p.png")])
def test_rotated_and_deep_pictures_are_read_as_load_image_reads_them(hosted, tmp_path, make, name):
    from nodes import LoadImage

    if make is grey16 and "VideoFromFile" not in inspect.getsource(LoadImage.load_image):
        pytest.skip("Load Image of older hosts turns 16 bits white")
    make(tmp_path / name)
    mine, host = ours(tmp_path / name), the_hosts(tmp_path / name)
    assert mine.shape == host.shape and (mine - host).abs().max() < 0.05


def ours(path):
    return importlib.import_module("dark_miner.darkminer.files.pictures").read_picture(path)


def the_hosts(path):
    import folder_paths

    from nodes import LoadImage

    before = folder_paths.get_input_directory()
    folder_paths.set_input_directory(str(path.parent))
    try:
        return LoadImage().load_image(path.name)[0][0].float()
    finally:
        folder_paths.set_input_directory(before)


@pytest.fixture
def folders(hosted, tmp_path, monkeypatch):
    """The module that says which folders may be read; input and output lie in tmp_path."""
    import folder_paths

    before = folder_paths.get_input_directory(), folder_paths.get_output_directory()
    for name, of in (("input", "set_input_directory"), ("output", "set_output_directory")):
        (tmp_path / name).mkdir()
        getattr(folder_paths, of)(str(tmp_path / name))
    monkeypatch.delenv(SETTING, raising=False)
    yield importlib.import_module("dark_miner.nodes.host.folders")
    folder_paths.set_input_directory(before[0])
    folder_paths.set_output_directory(before[1])


@pytest.mark.parametrize("text", ["pics", " pics ", '"pics"', "'pics'", "../output/pics"])
def test_a_folder_is_found_in_input_and_output(folders, tmp_path, text):
    where = "output" if "output" in text else "input"
    (tmp_path / where / "pics").mkdir()
    colours().save(tmp_path / where / "pics" / "p.png")
    assert len(folders.read_folder(text).images) == 1


def test_a_folder_elsewhere_needs_the_owners_setting(folders, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    colours().save(other / "p.png")
    (tmp_path / "input" / "link").symlink_to(other)
    error = importlib.import_module("dark_miner.darkminer.errors").DarkMinerError
    tries = (str(other), "../other", "link", "../nowhere", "~", "/")
    for text in tries:
        with pytest.raises(error, match=f"lies outside the input .* in {SETTING}.$"):
            folders.read_folder(text)
    monkeypatch.setenv(SETTING, f"{tmp_path / 'more'}{os.pathsep}{other}")
    for text in tries[:3]:
        assert len(folders.read_folder(text).images) == 1
    monkeypatch.setenv("HOME", str(other))
    assert len(folders.read_folder("~").images) == 1
    for text in tries[3:4]:
        with pytest.raises(error, match="lies outside"):
            folders.read_folder(text)


@pytest.mark.parametrize("text", ["\0", "\ud800", "a" * 5000, "none"])
def test_a_folder_that_cannot_be_is_one_sentence(folders, text):
    error = importlib.import_module("dark_miner.darkminer.errors").DarkMinerError
    with pytest.raises(error) as caught:
        folders.read_folder(text)
    assert str(caught.value).startswith("folder '") and str(caught.value).count(". ") == 0
    str(caught.value).encode()


def test_added_and_changed_pictures_are_seen_and_nothing_else_is(comfy, place):
    for name in ("a", "b", "c"):
        colours((32, 32)).save(place / f"{name}.png")
    work = prompt(folder=place.name)
    first, outputs = ran(comfy, work)
    assert "pool" in first and outputs["pool"]["text"] == ["3 pictures read from folder"]
    assert "pool" not in ran(comfy, work)[0]
    colours((32, 32)).save(place / "d.png")
    again, outputs = ran(comfy, work)
    assert "pool" in again and outputs["pool"]["text"] == ["4 pictures read from folder"]
    Image.new("RGB", (32, 32), "red").save(place / "a.png")
    assert "pool" in ran(comfy, work)[0]
    assert "pool" not in ran(comfy, work)[0]


def test_weights_that_change_are_seen_and_links_count_as_changed(comfy, hosted, tmp_path):
    """What the host asks each node; a name that comes by a link reaches it as None."""
    nodes = {n.__name__: n for n in importlib.import_module("dark_miner.nodes").NODES}
    watching = [n for n, node in nodes.items() if reads(node, "open_clip_weights")]
    assert {"VerifyDeltaCLIP", "RedTeam", "DarkMinerLoop"} <= set(watching)
    file = tmp_path / "weights.pt"
    for name in watching:
        ask = nodes[name].fingerprint_inputs
        file.unlink(missing_ok=True)
        assert ask(open_clip_weights="openai") == ask(open_clip_weights=str(file)) == ""
        file.write_bytes(b"1")
        first = ask(open_clip_weights=str(file), seed=3)
        file.write_bytes(b"12")
        assert first != ask(open_clip_weights=str(file)) != ""
    gallery = nodes["DarkMinerDemoModels"].fingerprint_inputs()
    assert len(gallery) >= 4 and all("bytes" in stamp for stamp in gallery)
    (linked,) = nodes["ImagePoolBuilder"].fingerprint_inputs(folder=(None,))
    assert linked != linked
    ran(comfy, prompt(seed=7))
    assert not ran(comfy, prompt(seed=7))[0] & {"m", "pool"}


def reads(node, name):
    return any(i.id == name for i in node.define_schema().inputs)


def test_skipped_files_are_said_on_the_node_and_a_pipe_is_not_waited_for(comfy, place):
    colours((32, 32)).save(place / "a.png")
    os.mkfifo(place / "x.png")
    (place / "b.heic").write_bytes(b"later")
    _, outputs = ran(comfy, prompt(folder=place.name))
    said = "1 pictures read from folder; 2 files skipped ('b.heic', 'x.png')"
    assert outputs["pool"]["text"] == [said]
    assert f"ImagePoolBuilder: {said}" in (comfy.output.parent / "server.log").read_text()


def test_the_cores_folder_loader_gives_one_pool(comfy, place):
    for i in range(5):
        Image.new("RGB", (32, 32), (50 * i, 0, 0)).save(place / f"{i}.png")
    comfy.ask(lambda client: client.object_info())  # the folder's name becomes a choice
    work = models_and_pool()
    work["set"] = node("LoadImageDataSetFromFolder", folder=place.name)
    work["pool"]["inputs"]["images"] = ["set", 0]
    work["look"] = node("PreviewImage", images=["pool", 1])
    _, outputs = ran(comfy, work)
    assert len(outputs["look"]["images"]) == 5


def test_a_list_of_two_sizes_is_one_sentence(comfy, place):
    for i in (32, 64):
        colours((i, i)).save(place / f"{i}.png")
    comfy.ask(lambda client: client.object_info())
    work = models_and_pool()
    work["set"] = node("LoadImageDataSetFromFolder", folder=place.name)
    work["pool"]["inputs"]["images"] = ["set", 0]
    work["look"] = node("PreviewImage", images=["pool", 1])
    said = failing(comfy, work)
    assert "images holds pictures of " in said and "bring all to one size" in said


def test_lists_of_other_inputs_give_a_pool_each(hosted):
    """As the host maps lists where a node takes none: the shorter one's last value is repeated."""
    builder = importlib.import_module("dark_miner.nodes.erase.image_pool")
    runs = list(builder.each({"concept": ["a", "b", "c"], "seed": [1, 2], "size": [5]}))
    assert [tuple(run.values()) for run in runs] == [("a", 1, 5), ("b", 2, 5), ("c", 2, 5)]
    one, two = torch.zeros(2, 4, 4, 4), torch.zeros(1, 4, 4, 3)
    assert builder.joined([one, None, two]).shape == (3, 4, 4, 3)
    assert builder.joined([None]) is builder.joined(None) is None


@pytest.mark.parametrize("folder", ["\ud800", "/etc", "../models", "~root"])
def test_a_folder_of_strangers_is_refused_when_queued_and_the_server_goes_on(comfy, folder):
    with pytest.raises(script("comfy_server").ServerError, match="folder '.*(outside|no path)"):
        comfy.run(prompt(folder=folder))
    next_prompt(comfy)


def test_a_folder_of_strangers_that_comes_by_a_link_is_refused_too(comfy):
    for folder in ("\ud800", "/etc"):
        work = prompt()
        work["text"] = node("PrimitiveString", value=folder)
        work["pool"]["inputs"]["folder"] = ["text", 0]
        assert "ImagePoolBuilder: folder '" in failing(comfy, work)
        next_prompt(comfy)


def next_prompt(comfy):
    async def soon(client):
        work = {"m": node("EmptyImage", width=8, height=8, batch_size=1, color=0)}
        work["look"] = node("PreviewImage", images=["m", 0])
        return await asyncio.wait_for(client.run(work), 60)

    assert len(comfy.ask(soon)["look"]["images"]) == 1
