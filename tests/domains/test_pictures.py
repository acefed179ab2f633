"""Pictures are read whatever their form, with every change said, or refused with a reason; nothing is ever written."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.core.errors import BadInput
from pellucid.domains import pictures
from pellucid.domains.pictures import Pictures, pictures_from_array, read_pictures, spread

Refuses = Callable[[str], AbstractContextManager[None]]


@pytest.fixture
def refuses(tmp_path: Path) -> Refuses:
    """A block that must raise BadInput with these words, and leave the folder as it was."""

    def listing() -> list[tuple[str, int]]:
        return sorted((str(p), p.lstat().st_size) for p in tmp_path.rglob("*"))

    @contextmanager
    def block(words: str) -> Iterator[None]:
        before = listing()
        with pytest.raises(BadInput, match=words):
            yield
        assert listing() == before

    return block


def colourful(seed: int, height: int = 12, width: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)  # type: ignore[arg-type]
    return path


def said(data: Pictures, topic: str) -> str:
    """The text of the one notice on this topic."""
    found = [notice for notice in data.notices if notice.topic == topic]
    assert len(found) == 1, data.notices
    return found[0].text


def topics(data: Pictures) -> set[str]:
    return {notice.topic for notice in data.notices}


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


# ------------------------------------------------------------------------------------------------------ the data class


def test_taken_pictures_keep_their_labels_and_names() -> None:
    pixels = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    data = Pictures(pixels=pixels, labels=("a", "b", "c"), names=("x", "y", "z"))
    some = data.take(np.array([2, 0]))
    assert (some.pixels.ravel().tolist(), some.labels, some.names) == ([2, 0], ("c", "a"), ("z", "x"))
    assert len(data.take([])) == 0


def test_classes_are_sorted_by_number_when_they_are_numbers() -> None:
    pixels = np.zeros((3, 1, 1, 1), np.uint8)
    assert Pictures(pixels=pixels, labels=("10", "9", "-1")).classes() == ("-1", "9", "10")
    assert Pictures(pixels=pixels, labels=("10", "9", "x")).classes() == ("10", "9", "x")
    assert Pictures(pixels=pixels).classes() == ()


def test_shown_stretches_few_levels_to_the_whole_range() -> None:
    data = Pictures(pixels=np.array([0, 8, 16], np.uint8).reshape(3, 1, 1, 1), levels=17)
    assert data.shown().ravel().tolist() == [0, 128, 255]
    assert Pictures(pixels=np.zeros((2, 4, 5, 3), np.uint8)).shown().shape == (2, 4, 5, 3)


def test_the_fingerprint_sees_pixels_labels_shape_and_levels() -> None:
    pixels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    base = Pictures(pixels=pixels, labels=("a", "b"))
    others = [
        Pictures(pixels=pixels, labels=("a", "c")),
        Pictures(pixels=pixels),
        Pictures(pixels=pixels[::-1], labels=("a", "b")),
        Pictures(pixels=pixels.reshape(2, 4, 1, 1), labels=("a", "b")),
        Pictures(pixels=pixels, labels=("a", "b"), levels=17),
    ]
    assert len({base.fingerprint(), *(other.fingerprint() for other in others)}) == 6
    assert base.fingerprint() == Pictures(pixels=pixels.copy(), labels=("a", "b"), source="elsewhere").fingerprint()


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3, 3, 1)), np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3, 3, 2), np.uint8)]
)
def test_other_arrays_are_no_pictures(array: np.ndarray) -> None:
    with pytest.raises(BadInput, match="uint8 of shape"):
        Pictures(pixels=array)


def test_labels_must_be_as_many_as_pictures() -> None:
    with pytest.raises(BadInput, match="1 labels for 2 pictures"):
        Pictures(pixels=np.zeros((2, 3, 3, 1), np.uint8), labels=("a",))


def test_a_limit_is_spread_evenly() -> None:
    assert spread(9, 3).tolist() == [0, 3, 6]
    assert spread(2, 5).tolist() == spread(2, None).tolist() == [0, 1]


# ------------------------------------------------------------------------------------------------------------- folders


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    one, two = colourful(1), colourful(2)
    save(tmp_path / "b.png", two)
    save(tmp_path / "a.png", one)
    data = read_pictures(tmp_path)
    assert data.labels is None
    assert data.names == ("a.png", "b.png")
    assert (data.pixels == np.stack([one, two])).all()
    assert data.notices == ()
    assert data.source == tmp_path.name


def test_subfolders_are_classes_by_their_first_level(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "old" / "1.png", colourful(1))
    save(tmp_path / "cat" / "2.webp", colourful(2), lossless=True)
    save(tmp_path / "dog" / "3.jpg", colourful(3))
    data = read_pictures(tmp_path)
    assert data.labels == ("cat", "cat", "dog")
    assert said(data, "classes") == "2 classes from subfolders: cat (2), dog (1)"


def test_pictures_beside_subfolders_leave_the_set_without_classes(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png", colourful(1))
    save(tmp_path / "2.png", colourful(2))
    data = read_pictures(tmp_path)
    assert data.labels is None
    assert said(data, "classes") == "no classes: 1 pictures lie beside the subfolders, 1 inside them"


def test_one_subfolder_alone_is_no_class(tmp_path: Path) -> None:
    save(tmp_path / "images" / "1.png", colourful(1))
    assert read_pictures(tmp_path).labels is None


def test_the_content_decides_what_is_a_picture(tmp_path: Path) -> None:
    save(tmp_path / "a.png", colourful(1))
    (tmp_path / "a.png").rename(tmp_path / "a.data")
    (tmp_path / "notes.txt").write_text("hello")
    save(tmp_path / "c.gif", colourful(1))
    save(tmp_path / "d.bmp", colourful(1))
    data = read_pictures(tmp_path)
    assert data.names == ("a.data",)
    assert said(data, "ignored").startswith("3 files ignored that are not PNG, JPEG or WebP: ")
    assert ".txt (1)" in said(data, "ignored")


def test_a_grey_set_has_one_channel(tmp_path: Path) -> None:
    grey = colourful(1)[..., 0]
    save(tmp_path / "1.png", grey)
    save(tmp_path / "2.png", np.repeat(grey[..., None], 3, axis=2))
    data = read_pictures(tmp_path)
    assert data.pixels.shape == (2, 12, 10, 1)
    assert (data.pixels[..., 0] == grey).all()
    assert said(data, "grey") == "all pictures are grey, 1 of them stored as RGB: read as grey"


def test_one_coloured_picture_makes_the_set_coloured(tmp_path: Path) -> None:
    save(tmp_path / "1.png", colourful(1)[..., 0])
    save(tmp_path / "2.png", colourful(2))
    data = read_pictures(tmp_path)
    assert data.pixels.shape == (2, 12, 10, 3)
    assert said(data, "grey") == "1 grey picture among 1 coloured: all read as RGB"


@pytest.mark.parametrize(("colour", "channels"), [("grey", 1), ("rgb", 3)])
def test_colour_can_be_asked_for(tmp_path: Path, colour: pictures.Colour, channels: int) -> None:
    save(tmp_path / "1.png", colourful(1))
    save(tmp_path / "2.png", colourful(2)[..., 0])
    assert read_pictures(tmp_path, colour=colour).pixels.shape == (2, 12, 10, channels)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 4), np.uint8)
    red[..., 0], red[:2, :, 3] = 255, 255  # the lower half is transparent
    save(tmp_path / "1.png", red)
    data = read_pictures(tmp_path)
    assert data.pixels[0, 0, 0].tolist() == [255, 0, 0]
    assert data.pixels[0, 3, 0].tolist() == [255, 255, 255]
    assert said(data, "converted") == "pictures converted: transparent, laid on white (1)"


def test_other_modes_are_converted_and_counted(tmp_path: Path) -> None:
    rgb = Image.fromarray(colourful(1))
    rgb.quantize(8).save(tmp_path / "palette.png")
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.convert("1").save(tmp_path / "bits.png")
    Image.fromarray(np.full((12, 10), 257 * 7, np.uint16)).save(tmp_path / "deep.png")
    data = read_pictures(tmp_path)
    text = said(data, "converted")
    for part in (
        "palette converted (1)",
        "CMYK converted (1)",
        "black and white converted (1)",
        "16-bit, divided by 257 (1)",
    ):
        assert part in text
    assert data.names is not None
    assert (data.pixels[data.names.index("deep.png")] == 7).all()


def test_the_orientation_of_the_camera_is_applied(tmp_path: Path) -> None:
    upright = colourful(1, 6, 9)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    lying = np.rot90(upright)
    save(tmp_path / "1.png", lying, exif=exif)
    save(tmp_path / "2.png", upright)
    data = read_pictures(tmp_path)
    assert (data.pixels == upright).all()
    assert said(data, "converted") == "pictures converted: turned upright as the camera noted (1)"


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    first, second = (Image.fromarray(colourful(seed)) for seed in (1, 2))
    first.save(tmp_path / "1.png", save_all=True, append_images=[second])
    data = read_pictures(tmp_path)
    assert (data.pixels[0] == colourful(1)).all()
    assert "animated, first frame taken (1)" in said(data, "converted")


def test_large_pictures_are_cropped_and_shrunk_to_64(tmp_path: Path) -> None:
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = (0, 200, 0)  # only the centre is green
    save(tmp_path / "1.png", wide)
    data = read_pictures(tmp_path)
    assert data.pixels.shape == (1, 64, 64, 3)
    assert (data.pixels[0, 8:-8, 8:-8] == (0, 200, 0)).all()
    assert said(data, "resized") == (
        "1 picture cropped at the centre and resized to 64x64; they were 300x100 (1); size changes it"
    )


def test_mixed_sizes_become_the_most_common_small_one(tmp_path: Path) -> None:
    for i, (height, width) in enumerate([(20, 20), (20, 20), (30, 24), (200, 100)]):
        save(tmp_path / f"{i}.png", colourful(i, height, width))
    data = read_pictures(tmp_path)
    assert data.pixels.shape == (4, 20, 20, 3)
    assert said(data, "resized").startswith("2 pictures cropped at the centre and resized to 20x20; they were ")


def test_small_pictures_of_many_sizes_are_not_blown_up(tmp_path: Path) -> None:
    for i, (height, width) in enumerate([(22, 40), (23, 41), (60, 25)]):
        save(tmp_path / f"{i}.png", colourful(i, height, width))
    assert read_pictures(tmp_path).pixels.shape == (3, 20, 20, 3)  # the middle short side, as a multiple of 4


def test_equal_small_pictures_keep_their_size(tmp_path: Path) -> None:
    save(tmp_path / "1.png", colourful(1, 16, 40))
    data = read_pictures(tmp_path)
    assert data.pixels.shape == (1, 16, 40, 3)
    assert "resized" not in topics(data)


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8)), ((8, 6), (8, 6)), (96, (96, 96))])
def test_a_size_can_be_asked_for(tmp_path: Path, size: pictures.Size, shape: tuple[int, int]) -> None:
    save(tmp_path / "1.png", colourful(1))
    save(tmp_path / "2.jpg", colourful(1, 300, 200))
    assert read_pictures(tmp_path, size=size).pixels.shape == (2, *shape, 3)


def test_a_limit_keeps_the_classes(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for i in range(6):
            save(tmp_path / label / f"{i}.png", colourful(i))
    data = read_pictures(tmp_path, limit=4)
    assert data.labels == ("cat", "cat", "dog", "dog")
    assert said(data, "limit") == "4 of 12 pictures read, evenly spread"


def test_a_few_unreadable_pictures_are_skipped_counted_and_named(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / f"{i:02}.png", colourful(i))
    whole = (tmp_path / "03.png").read_bytes()
    (tmp_path / "03.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "05.png").write_bytes(b"")
    data = read_pictures(tmp_path)
    assert len(data) == 18
    assert data.names is not None
    assert "03.png" not in data.names
    assert said(data, "skipped") == "2 unreadable pictures skipped: '03.png', '05.png'"


def test_a_large_truncated_picture_is_skipped_too(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f"{i:02}.jpg", colourful(i, 90, 90))
    whole = (tmp_path / "03.jpg").read_bytes()
    (tmp_path / "03.jpg").write_bytes(whole[: len(whole) // 2])
    assert said(read_pictures(tmp_path), "skipped") == "1 unreadable picture skipped: '03.jpg'"


def test_many_unreadable_pictures_are_refused(tmp_path: Path, refuses: Refuses) -> None:
    for i in range(8):
        save(tmp_path / f"{i}.png", colourful(i))
    (tmp_path / "3.png").write_bytes(b"GIF89a not a png")
    with refuses("1 of 8 pictures in .* cannot be read: '3.png'.*at most 10%"):
        read_pictures(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path, refuses: Refuses) -> None:
    with refuses("holds no pictures.*PNG, JPEG or WebP"):
        read_pictures(tmp_path)


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path, refuses: Refuses) -> None:
    (tmp_path / "a.txt").write_text("hello")
    save(tmp_path / "b.bmp", colourful(1))
    with refuses(r"2 files ignored.*\.bmp \(1\)"):
        read_pictures(tmp_path)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_500, 60_000])
def test_a_header_that_claims_too_much_is_refused_before_decoding(tmp_path: Path, refuses: Refuses, side: int) -> None:
    for i in range(20):
        save(tmp_path / f"{i}.png", colourful(i))
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    with refuses("'bomb.png' claims to hold more than 89,478,485 pixels"):
        read_pictures(tmp_path)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    save(inside / "1.png", colourful(1))
    save(outside / "2.png", colourful(2))
    (inside / "2.png").symlink_to(outside / "2.png")
    (inside / "more").symlink_to(outside)
    (inside / "same.png").symlink_to(inside / "1.png")
    data = read_pictures(inside)
    assert data.names == ("1.png", "same.png")
    assert said(data, "links") == "2 symbolic links not followed"


def test_names_are_paths_inside_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x" / "1.png", colourful(1))
    save(tmp_path / "b" / "1.png", colourful(1))
    assert read_pictures(tmp_path).names == ("a/x/1.png", "b/1.png")


@pytest.mark.parametrize("size", [0, (3,), (3, 4, 5), 5000, "big"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, refuses: Refuses, size: pictures.Size) -> None:
    save(tmp_path / "1.png", colourful(1))
    with refuses("size is"):
        read_pictures(tmp_path, size=size)


def test_other_wrong_settings_are_refused(tmp_path: Path, refuses: Refuses) -> None:
    save(tmp_path / "1.png", colourful(1))
    with refuses("colour is 'gray'.*Did you mean 'grey'"):
        read_pictures(tmp_path, colour="gray")  # type: ignore[arg-type]
    with refuses("limit is 0"):
        read_pictures(tmp_path, limit=0)
    with refuses("target is 'x'.*subfolders"):
        read_pictures(tmp_path, target="x")
    with refuses("nothing at 'gone'"):
        read_pictures(tmp_path / "gone")


# -------------------------------------------------------------------------------------------------------------- arrays


def test_npz_with_images_and_labels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 1, 2, 1, 0]), index=np.arange(5))
    data = read_pictures(tmp_path / "a.npz")
    assert (data.pixels[..., 0] == images).all()
    assert data.labels == ("0", "1", "2", "1", "0")
    assert said(data, "array") == "5 pictures from the array 'images', labels from 'labels'"
    assert data.source == "a.npz"


@pytest.mark.parametrize(
    ("image", "label"), [("x", "y"), ("x_train", "y_train"), ("train_images", "train_labels"), ("arr_0", "labels")]
)
def test_npz_names_that_are_known(tmp_path: Path, image: str, label: str) -> None:
    arrays = {image: np.zeros((4, 5, 5, 3), np.uint8), label: np.array([[1], [0], [1], [1]], np.uint8)}
    arrays |= {"x_test": np.zeros((2, 5, 5, 3), np.uint8)}
    np.savez_compressed(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    data = read_pictures(tmp_path / "a.npz")
    assert len(data) == 4
    assert data.labels == ("1", "0", "1", "1")
    assert said(data, "ignored") == "not read: x_test"


def test_the_target_names_the_label_array(tmp_path: Path, refuses: Refuses) -> None:
    arrays = {"images": np.zeros((2, 5, 5), np.uint8), "labels": np.array(["a", "b"]), "sex": np.array([b"f", b"m"])}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    assert read_pictures(tmp_path / "a.npz", target="sex").labels == ("f", "m")
    with refuses("no array 'sexx'.*Did you mean 'sex'"):
        read_pictures(tmp_path / "a.npz", target="sexx")
    with refuses(r"labels 'images' have shape \(2, 5, 5\)"):
        read_pictures(tmp_path / "a.npz", target="images")


def test_an_npz_without_labels_says_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 5, 5), np.uint8))
    assert said(read_pictures(tmp_path / "a.npz"), "array").endswith("no labels")


def test_an_npz_with_several_unknown_arrays_is_refused(tmp_path: Path, refuses: Refuses) -> None:
    np.savez(tmp_path / "a.npz", left=np.zeros((2, 5, 5), np.uint8), right=np.zeros((2, 5, 5), np.uint8))
    with refuses("holds left uint8.*named images"):
        read_pictures(tmp_path / "a.npz")


def test_pickled_arrays_are_never_loaded(tmp_path: Path, refuses: Refuses) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 5, 5), np.uint8), labels=np.array([{}, []], dtype=object))
    with refuses("'labels'.*holds Python objects.*pickle"):
        read_pictures(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.array([{}, []], dtype=object))
    with refuses("pickle"):
        read_pictures(tmp_path / "b.npy")


def test_an_npz_that_claims_too_much_is_refused_by_its_header(tmp_path: Path, refuses: Refuses) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**3, 10**3)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with refuses("claims to hold 931.3 GB.*at most 8 GB"):
        read_pictures(tmp_path / "a.npz")


def test_damaged_array_files_are_refused(tmp_path: Path, refuses: Refuses) -> None:
    (tmp_path / "a.npz").write_bytes(b"not a zip")
    with refuses("'a.npz' is not an .npz file"):
        read_pictures(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", images=np.random.default_rng(0).integers(0, 256, (20, 9, 9), np.uint8))
    whole = bytearray((tmp_path / "b.npz").read_bytes())
    whole[300:400] = bytes(100)
    (tmp_path / "b.npz").write_bytes(whole)
    with refuses("'b.npz' is not an .npz file, or is damaged"):
        read_pictures(tmp_path / "b.npz")
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY")
    with refuses("'c.npy' is not an .npy file"):
        read_pictures(tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", np.zeros((3, 4, 4), np.uint8))
    plain = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(plain.replace(b"'fortran", b'"fortran'))
    with refuses("'d.npy' is not an .npy file, or is damaged"):
        read_pictures(tmp_path / "d.npy")


def test_npy_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 4, 4), 9, np.uint8))
    assert read_pictures(tmp_path / "a.npy").pixels.shape == (3, 4, 4, 1)


@pytest.mark.parametrize(("scale", "words"), [(1.0, "0 to 1"), (255.0, "0 to 255")])
def test_floats_are_rounded_and_said(scale: float, words: str) -> None:
    array = np.linspace(0, scale, 2 * 16).reshape(2, 4, 4).astype(np.float32)
    data = pictures_from_array(array)
    assert (data.pixels.min(), data.pixels.max()) == (0, 255)
    assert words in said(data, "converted")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 4, 4), np.int64), "is int64.*astype"),
        (np.zeros((2, 4, 4), bool), "is bool"),
        (np.full((2, 4, 4), -1.0), r"values from -1 to -1.*\(x \+ 1\) / 2"),
        (np.full((2, 4, 4), 300.0), "values from 300 to 300"),
        (np.full((2, 4, 4), np.nan), "from nan to nan"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\).*array\[None\]"),
        (np.zeros((2, 4, 4, 5), np.uint8), r"shape \(2, 4, 4, 5\)"),
        (np.zeros((0, 4, 4), np.uint8), r"shape \(0, 4, 4\)"),
        (np.zeros((2, 0, 4), np.uint8), r"shape \(2, 0, 4"),
    ],
)
def test_other_arrays_are_refused_with_words(array: np.ndarray, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        pictures_from_array(array)


def test_channels_first_are_moved_last_and_transparency_is_laid_on_white() -> None:
    data = pictures_from_array(np.random.default_rng(0).integers(0, 256, (2, 3, 8, 9), dtype=np.uint8))
    assert data.pixels.shape == (2, 8, 9, 3)
    assert "channels" in topics(data)
    clear = pictures_from_array(np.zeros((2, 8, 9, 4), np.uint8))
    assert (clear.pixels == 255).all()
    assert clear.pixels.shape == (2, 8, 9, 1)
    assert "converted" in topics(clear)


def test_arrays_are_made_grey_resized_and_limited_like_folders() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 100, 80, 3), dtype=np.uint8)
    data = pictures_from_array(pixels, list("abcdef"), colour="grey", limit=3)
    assert data.pixels.shape == (3, 64, 64, 1)
    assert data.labels == ("a", "c", "e")
    assert {"limit", "resized"} <= topics(data)
    grey = pictures_from_array(np.repeat(pixels[:2, :9, :9, :1], 3, axis=3))
    assert grey.pixels.shape == (2, 9, 9, 1)
    assert said(grey, "grey") == "all 2 pictures are grey but stored as RGB: read as grey"
    assert pictures_from_array(pixels[:2, :9, :9, :1], colour="rgb").pixels.shape == (2, 9, 9, 3)


def test_labels_of_an_array_must_fit() -> None:
    with pytest.raises(BadInput, match=r"shape \(2, 3\).*argmax"):
        pictures_from_array(np.zeros((2, 4, 4), np.uint8), np.eye(3)[:2].tolist())
    assert pictures_from_array(np.zeros((2, 4, 4), np.uint8), [1.0, 2.0]).labels == ("1", "2")


# ----------------------------------------------------------------------------------------------------------------- idx


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder with the four files of MNIST, three training and two test pictures."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 3), ("t10k", 2)):
        images = rng.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(count, dtype=np.uint8))))
    return tmp_path


def test_idx_images_find_their_labels(mnist: Path) -> None:
    data = read_pictures(mnist / "t10k-images-idx3-ubyte.gz")
    assert data.pixels.shape == (2, 6, 5, 1)
    assert data.labels == ("0", "1")
    assert said(data, "labels") == "labels from 't10k-labels-idx1-ubyte.gz'"


def test_a_folder_of_idx_files_gives_its_training_pair(mnist: Path) -> None:
    data = read_pictures(mnist)
    assert len(data) == 3
    assert data.labels == ("0", "1", "2")
    assert said(data, "idx") == "read from 'train-images-idx3-ubyte.gz', of 4 idx files in the folder"


def test_idx_files_need_not_be_zipped(mnist: Path) -> None:
    for file in mnist.glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert read_pictures(mnist / "train-images-idx3-ubyte").labels == ("0", "1", "2")
    (mnist / "train-labels-idx1-ubyte").unlink()
    data = read_pictures(mnist / "train-images-idx3-ubyte")
    assert data.labels is None
    assert said(data, "labels").startswith("no labels: there is no 'train-labels-idx1-ubyte'")


def test_several_idx_files_without_a_training_one_are_refused(mnist: Path, refuses: Refuses) -> None:
    (mnist / "train-images-idx3-ubyte.gz").rename(mnist / "a-images-idx3-ubyte.gz")
    with refuses("Name the file of images itself"):
        read_pictures(mnist)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 3) + b"abc", mtime=0), "file of labels: name the images"),
        (gzip.compress(b"\0\0\x0d\x03" + bytes(12), mtime=0), "begins with the bytes 00 00 0d 03"),
        (gzip.compress(b"", mtime=0), r"bytes \(none\)"),
        (gzip.compress(idx(np.zeros((3, 6, 5), np.uint8)), mtime=0)[:-12], "cut short or damaged"),
        (gzip.compress(idx(np.zeros((3, 6, 5), np.uint8))[:-7], mtime=0), "holds 83 bytes, its header says"),
        (gzip.compress(idx(np.zeros((3, 6, 5), np.uint8)) + b"x", mtime=0), "holds more bytes"),
        (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12, mtime=0), "claims to hold .* GB"),
        (b"\x1f\x8b" + bytes(20), "cut short or damaged"),
        (b"\0\0\x08\x03\0", "cut short or damaged"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, refuses: Refuses, content: bytes, words: str) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with refuses(words):
        read_pictures(tmp_path / "train-images-idx3-ubyte.gz")


def test_labels_that_do_not_fit_are_refused(mnist: Path, refuses: Refuses) -> None:
    (mnist / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(7, dtype=np.uint8))))
    with refuses(r"shape \(7,\) for 3 pictures"):
        read_pictures(mnist)
