"""Picture files as people have them: each is made here, none is kept."""

import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from dark_miner.darkminer.errors import DarkMinerError
from dark_miner.darkminer.files import pictures as picture_files
from dark_miner.darkminer.files import stamps as file_stamps
from dark_miner.darkminer.files.pictures import read_picture, read_pictures
from PIL import Image, PngImagePlugin

WIDE = (32, 16)


def colours(size=WIDE):
    """A picture with an upside and a left, in slow gradients that JPEG keeps."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))


def rotated(path, size=WIDE):
    """Stored lying, with the note that it is to be stood up by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    colours(size).save(path, quality=95, subsampling=0, exif=exif)


def grey16(path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(path)


def says_20000(path):
    """A few bytes of PNG whose header promises 20,000 x 20,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )  # fmt: skip

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 99)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def much_text(path):
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    colours().save(path, pnginfo=text)


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    rotated(tmp_path / "p.jpg")
    image = read_picture(tmp_path / "p.jpg")
    assert image.shape == (32, 16, 3)
    upright = torch.from_numpy(np.array(colours().rotate(-90, expand=True))).float() / 255
    assert (image - upright).abs().max() < 0.05


def test_pictures_upright_by_pixels_and_by_exif_are_of_one_size(tmp_path):
    rotated(tmp_path / "a.jpg")
    colours((16, 32)).save(tmp_path / "b.jpg")
    files, skipped = picture_files.picture_files(tmp_path)
    assert read_pictures(files).images.shape == (2, 32, 16, 3) and skipped == []


def test_grey_of_16_bits_keeps_its_range(tmp_path):
    grey16(tmp_path / "p.png")
    image = read_picture(tmp_path / "p.png")
    assert image.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert torch.equal(image[..., 0], image[..., 2]) and image.max() == 1.0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_common_mode_becomes_rgb(tmp_path, mode):
    colours().convert("RGB").convert(mode).save(tmp_path / "p.tif")
    assert read_picture(tmp_path / "p.tif").shape == (16, 32, 3)


def test_colours_under_a_transparent_place_stay(tmp_path):
    picture = colours()
    picture.putalpha(0)
    picture.save(tmp_path / "p.png")
    assert torch.equal(
        read_picture(tmp_path / "p.png"), torch.from_numpy(np.array(colours())).float() / 255
    )


def test_a_moving_picture_gives_its_first_frame(tmp_path):
    first, second = Image.new("RGB", WIDE, "red"), Image.new("RGB", WIDE, "blue")
    first.save(tmp_path / "p.gif", save_all=True, append_images=[second])
    assert read_picture(tmp_path / "p.gif")[0, 0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "make, reason",
    [
        (says_20000, "more than the 67108864 pixels"),
        (lambda path: Image.new("1", (9000, 8000)).save(path), "is 9000 x 8000, more than"),
        (lambda path: path.write_bytes(b"no picture"), "cannot be read"),
        (lambda path: Image.new("F", WIDE).save(path, "TIFF"), "without a known white"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_sentence(tmp_path, make, reason):
    make(tmp_path / "p.png")
    with pytest.raises(DarkMinerError, match=f"^'p.png' in folder .*{reason}.*remove it.$"):
        read_picture(tmp_path / "p.png")


def test_a_cut_off_picture_is_refused(tmp_path):
    colours((256, 256)).save(tmp_path / "p.png")
    whole = (tmp_path / "p.png").read_bytes()
    (tmp_path / "p.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DarkMinerError, match="'p.png' in folder cannot be read"):
        read_picture(tmp_path / "p.png")


def test_a_promise_of_20000_pixels_takes_no_memory(tmp_path):
    says_20000(tmp_path / "scan.png")
    tracemalloc.start()
    with pytest.raises(DarkMinerError, match="'scan.png'"):
        read_picture(tmp_path / "scan.png")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_picture_with_much_text_is_read_or_named(tmp_path):
    much_text(tmp_path / "p9.png")
    with pytest.raises(DarkMinerError, match="^'p9.png' in folder cannot be read"):
        read_picture(tmp_path / "p9.png")


def test_two_sizes_name_both_files(tmp_path):
    colours().save(tmp_path / "a.png")
    colours((16, 32)).save(tmp_path / "b.png")
    with pytest.raises(DarkMinerError, match="'b.png' in folder is 16 x 32 and 'a.png' is 32 x 16"):
        read_pictures([tmp_path / "a.png", tmp_path / "b.png"])


def test_what_is_no_picture_file_is_left_out_and_counted(tmp_path):
    for name in ("b.png", "a.TIF", "c.gif"):
        colours().save(tmp_path / name)
    (tmp_path / "._b.png").write_bytes(b"macOS")
    (tmp_path / "e.heic").write_bytes(b"later")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    read = read_pictures(*picture_files.picture_files(tmp_path))
    assert read.names == ("a.TIF", "b.png", "c.gif")
    assert read.summary() == (
        "3 pictures read from folder; 5 files skipped "
        "('._b.png', 'e.heic', 'folder.png', 'gone.png', 'pipe.png')"
    )


def test_a_link_that_leads_where_nobody_may_read_is_left_out(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    colours().save(tmp_path / "secret.png")
    (inside / "p.png").symlink_to(tmp_path / "secret.png")
    files, skipped = picture_files.picture_files(inside, lambda place: inside in place.parents)
    assert files == [] and skipped == ["p.png"]


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    (tmp_path / "e.heic").write_bytes(b"later")
    with pytest.raises(DarkMinerError, match="holds no pictures; 1 file skipped .'e.heic'.: put"):
        read_pictures(*picture_files.picture_files(tmp_path))


def test_a_stamp_follows_contents_not_times(tmp_path):
    path = tmp_path / "a.png"
    colours().save(path)
    before = file_stamps.contents([path])
    os.utime(path, (1, 1))
    assert file_stamps.contents([path]) == before
    Image.new("RGB", WIDE).save(path)
    changed = file_stamps.contents([path])
    path.rename(tmp_path / "b.png")
    assert len({before, changed, file_stamps.contents([tmp_path / "b.png"])}) == 3
    assert file_stamps.contents([]) != changed


def test_a_large_file_is_stamped_by_size_and_time(tmp_path):
    path = tmp_path / "weights"
    assert file_stamps.stamp(path) == "no file"
    path.write_bytes(b"12")
    os.utime(path, ns=(1, 1))
    first = file_stamps.stamp(path)
    os.utime(path, ns=(1, 2))
    assert first == "2 bytes, 1" and file_stamps.stamp(path) == "2 bytes, 2"
