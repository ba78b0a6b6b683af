"""A folder with everything that people have in theirs."""

import io
from pathlib import Path

import numpy as np
from makers.photos import crops
from PIL import Image

READ, BAD, IGNORED = "read", "bad", "ignored"


def make(root: Path) -> dict[str, str]:
    """Write sixty files below `root`; returns what is to become of each, by name.

    Beside them there is a link that leads back to `root`. Files that nobody may read are made by
    the caller, since that depends on who reads.
    """
    photos = iter(crops(50, 120, 100))
    fate: dict[str, str] = {}

    def put(name: str, data: bytes, outcome: str) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        fate[name] = outcome

    def image(name: str, picture: Image.Image, kind: str, outcome: str = READ, **options) -> bytes:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        put(name, file.getvalue(), outcome)
        return file.getvalue()

    for i in range(12):
        image(f"good/{i:02d}.jpg", next(photos), "JPEG")
    image("good/progressive.jpg", next(photos), "JPEG", progressive=True)
    image("good/UPPER.JPG", next(photos), "JPEG")
    image("good/webp.webp", next(photos), "WEBP")
    image("good/bitmap.bmp", next(photos), "BMP")
    image("good/plain.ppm", next(photos), "PPM")
    image("good/wrong name.png", next(photos), "JPEG")
    image("good/gray.jpg", next(photos).convert("L"), "JPEG")
    image("good/gray.pgm", next(photos).convert("L"), "PPM")
    image("good/one bit.png", next(photos).convert("1"), "PNG")

    whole = image("broken/whole.jpg", next(photos), "JPEG")
    for name, length in (("third", len(whole) // 3), ("nearly", len(whole) - 2), ("header", 40)):
        put(f"broken/truncated {name}.jpg", whole[:length], BAD)
    png = image("broken/whole.png", next(photos), "PNG")
    put("broken/truncated.png", png[: len(png) // 2], BAD)
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    put("broken/flipped bit.png", bytes(flipped), BAD)
    put("broken/text.jpg", b"this is a shopping list, not an image\n" * 9, BAD)
    put("broken/page.png", b"<!DOCTYPE html><html><body>404</body></html>", BAD)
    put("broken/empty.jpg", b"", BAD)
    put("broken/zeros.png", bytes(4096), BAD)
    put("broken/zip.jpg", b"PK\x03\x04" + bytes(200), BAD)

    image("sizes/one pixel.png", Image.new("RGB", (1, 1), (9, 99, 199)), "PNG")
    image("sizes/one row.png", next(photos).crop((0, 0, 120, 1)), "PNG")
    image("sizes/wide.png", next(photos).resize((20000, 24)), "PNG")
    image("sizes/wide.jpg", next(photos).resize((20000, 24)), "JPEG")
    image("sizes/tall.jpg", next(photos).resize((24, 20000)), "JPEG")
    image("sizes/large.jpg", next(photos).resize((3000, 2500)), "JPEG")

    image("modes/cmyk.jpg", next(photos).convert("CMYK"), "JPEG")
    image("modes/cmyk.tif", next(photos).convert("CMYK"), "TIFF")
    sixteen = np.array(next(photos).convert("L")).astype(np.uint16) * 257
    image("modes/sixteen bits.png", Image.fromarray(sixteen), "PNG")
    image("modes/sixteen bits.tif", Image.fromarray(sixteen), "TIFF")
    image("modes/float.tif", Image.fromarray(sixteen.astype(np.float32)), "TIFF", BAD)
    opaque = next(photos)
    opaque.putalpha(128)
    image("modes/half transparent.png", opaque, "PNG")
    image("modes/palette.png", next(photos).quantize(16), "PNG")
    image("modes/lab.tif", next(photos).convert("LAB"), "TIFF")
    frames = [next(photos), next(photos)]
    image("modes/animated.gif", frames[0], "GIF", save_all=True, append_images=frames[1:])
    image("modes/pages.tif", frames[1], "TIFF", save_all=True, append_images=frames[:1])
    image("modes/broken exif.jpg", next(photos), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    turned = Image.Exif()
    turned[0x0112] = 8
    image("modes/turned.jpg", next(photos), "JPEG", exif=turned)
    file = io.BytesIO()
    np.save(file, np.array(next(photos)))
    put("modes/array.npy", file.getvalue(), READ)
    file = io.BytesIO()
    np.save(file, np.array([{"no": "image"}], dtype=object))
    put("modes/objects.npy", file.getvalue(), BAD)

    image("names/größe 大きさ حجم 📷.jpg", next(photos), "JPEG")
    image(f"names/{'long ' * 50}.jpg", next(photos), "JPEG")
    image("names/line\nend.jpg", next(photos), "JPEG")
    image("names/no utf-8 \udcff.jpg", next(photos), "JPEG")
    image("names/$(touch x) 'a' \"b\".jpg", next(photos), "JPEG")
    put("names/Thumbs.db", bytes(100), IGNORED)
    put("names/README", b"where they come from", IGNORED)
    (root / "names" / "loop").symlink_to(root)
    assert len(fate) == 60, len(fate)
    return fate
