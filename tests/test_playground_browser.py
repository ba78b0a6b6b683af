"""The page of `ganzoo.playground`, in a real browser, against what the commands make."""

import base64
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import shared
from makers.browser import TOOLS, Visit, chromium, missing, serving, visit
from PIL import Image
from torch import Tensor

import ganzoo
from ganzoo import sample, translate
from ganzoo.data.pixels import to_uint8
from ganzoo.draws import bernoulli, censored_normal, normal, unit
from ganzoo.draws import uniform as uniform_
from ganzoo.engine.kinds import FromSeeds
from ganzoo.engine.sampling import latents_of, shared_classes, uniform_classes
from ganzoo.pictures import sheets
from ganzoo.runs.playing import Options, build, write_page
from ganzoo.sharing import playground

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

NEAR = 2  # of 255: largest difference of a pixel
HOSTILE = """</script><script>window.hit = 1</script>"'><img src=x onerror="window.hit = 1">"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("playground")


@pytest.fixture(scope="module")
def made(folder: Path) -> Any:
    """A function that makes the page of a model of a kind, once; the run is next to it."""

    def make(kind: str) -> Path:
        run, page = folder / kind, folder / kind / "page"
        if not page.exists():
            run.mkdir()
            gan = shared.untrained(kind)
            if isinstance(gan, FromSeeds):
                contrast(gan)
                gan.class_names = [HOSTILE, "cat & dog", *map(str, range(2, gan.classes))]
            shared.save(gan, run / "last.ckpt")
            stops = [0.4, None] if isinstance(gan, FromSeeds) else None
            built = build(run, Options(HOSTILE, HOSTILE, stops, domains=("horses", HOSTILE)))
            write_page(built, page, single=False)
            write_page(built, run / "page.html", single=True)
        return run

    return make


def contrast(gan: FromSeeds) -> None:
    """Make images of untrained networks differ, from seed to seed and by truncation."""
    assert gan.average is not None
    for module in gan.average.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
            module.weight.data.mul_(3)


@pytest.fixture
def opened(browser: Any, made: Any) -> Iterator[Any]:
    """A function that opens the page of a kind; no page may complain or ask elsewhere."""
    stack, visits = [], []

    def open_page(kind: str, **options: Any) -> Visit:
        run = made(kind)
        server = serving(run / "page")
        url = server.__enter__()
        stack.append(server)
        manager = visit(browser, url, **options)
        stack.append(manager)
        visits.append((url, manager.__enter__()))
        return visits[-1][1]

    yield open_page
    for url, found in visits:
        assert found.page.evaluate("window.hit") is None
        assert found.errors == []
        assert [r for r in found.requests if not r.startswith((url, "blob:", "data:"))] == []
    for each in reversed(stack):
        each.__exit__(None, None, None)


def pixels_of(images: Tensor) -> np.ndarray:
    """uint8 [N, H, W, 4] of images [N, 3, H, W] in [-1, 1]."""
    rgb = to_uint8(images).permute(0, 2, 3, 1).numpy()
    return np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], 3)


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= NEAR


def sampled(run: Path, seeds: range, *options: str) -> np.ndarray:
    """The PNGs that `python -m ganzoo.sample` writes."""
    out = run / "-".join([str(seeds.start), *options])
    sample.main([str(run), "--out", str(out), "--seeds", f"{seeds[0]}-{seeds[-1]}", *options])
    files = sorted(out.glob("*.png"))
    return np.stack([np.asarray(Image.open(file).convert("RGBA")) for file in files])


def set_range(found: Visit, selector: str, value: float) -> None:
    found.page.locator(selector).evaluate(
        "(e, value) => { e.value = value; e.dispatchEvent(new Event('input', {bubbles: true})) }",
        value,
    )


# -- images from seeds -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dcgan", "pggan", "biggan"])
def test_pixels_are_those_of_the_command(kind: str, opened: Any, made: Any) -> None:
    found, run = opened(kind), made(kind)
    found.settled()
    plain = sampled(run, range(8))
    assert_near(found.pixels("#grid canvas")[:8], plain)
    assert np.abs(np.diff(plain.astype(int), axis=0)).max() > 20  # seeds differ
    set_range(found, "#variety", 0)
    found.settled()
    truncated = sampled(run, range(8), "--truncation", "0.4")
    assert_near(found.pixels("#grid canvas")[:8], truncated)
    assert np.abs(truncated.astype(int) - plain.astype(int)).max() > 20
    found.page.fill("#number", "123456")
    found.page.click("text=Go")
    found.settled()
    further = sampled(run, range(123456, 123459), "--truncation", "0.4")
    assert_near(found.pixels("#grid canvas")[:3], further)
    assert found.page.inner_text("#known") == ""


def test_classes_are_chosen_and_mixed(opened: Any, made: Any) -> None:
    found, gan = opened("biggan"), ganzoo.load(made("biggan"))
    assert isinstance(gan, FromSeeds)
    assert found.page.locator("#label option").all_inner_texts()[1:3] == [HOSTILE, "cat & dog"]
    found.page.select_option("#label", "3")
    found.settled()
    z = gan.latents(range(24))
    assert_near(found.pixels("#grid canvas"), pixels_of(gan.images(z, labels=3)))
    found.page.select_option("#mix", "1")
    set_range(found, "#share", 25)
    found.settled()
    ends = gan.class_embeddings(torch.tensor([3, 1]))
    assert ends is not None
    mixed = torch.lerp(ends[0], ends[1], 0.25).expand(24, -1)
    assert_near(found.pixels("#grid canvas"), pixels_of(gan.images(z, labels=mixed)))
    assert "cat & dog" in found.page.inner_text("#chosen")


def test_a_nudge_moves_the_latents(opened: Any, made: Any) -> None:
    found, gan = opened("dcgan"), ganzoo.load(made("dcgan"))
    assert isinstance(gan, FromSeeds)
    found.page.locator("#grid button").nth(5).focus()
    found.page.keyboard.press("Enter")  # the keyboard does what the mouse does
    found.until("document.querySelector('#chosen').innerText == 'Picture 5'")
    before = found.page.locator("#large").get_attribute("data-drawn")
    set_range(found, "#nudge1", 2.5)
    found.page.wait_for_selector(f"#large:not([data-drawn='{before}'])")
    weight = gan.network().base[1].weight.flatten(1).double()  # [nz, features]
    direction = torch.linalg.svd(weight).U[:, 1].float()
    z = gan.latents([5])
    both = [pixels_of(gan.images(z + 2.5 * sign * direction)) for sign in (1, -1)]
    large = found.pixels("#large")
    assert min(np.abs(large.astype(int) - each.astype(int)).max() for each in both) <= NEAR
    assert np.abs(both[0].astype(int) - both[1].astype(int)).max() > 20
    found.page.click("#reset")
    with Image.open(found.saved("#save")) as picture:
        assert picture.size == (256, 256)
        small = np.asarray(picture)[None, ::16, ::16]
        assert np.array_equal(np.asarray(picture), small[0].repeat(16, 0).repeat(16, 1))
    assert_near(small, pixels_of(gan.images(z)))


def test_a_walk_is_played_and_saved(opened: Any, made: Any) -> None:
    found, gan = opened("dcgan"), ganzoo.load(made("dcgan"))
    assert isinstance(gan, FromSeeds)
    found.page.locator("#stops button").nth(3).click()  # takes a stop out
    found.page.locator("#stops button").nth(2).click()
    assert found.page.locator("#stops button").count() == 2
    found.page.click("#walk")
    found.until("document.querySelector('#large').dataset.frames > 5")
    found.page.click("#walk")
    expected = pixels_of(sheets.walk(gan, [0, 1], 24))
    with Image.open(found.saved("#apng")) as film:
        assert (film.format, film.n_frames, film.size) == ("PNG", 48, (256, 256))
        frames = []
        for i in range(film.n_frames):
            film.seek(i)
            frames.append(np.asarray(film.convert("RGBA"))[::16, ::16])
    assert_near(np.stack(frames), expected)
    video = found.saved("#video").read_bytes()
    assert video[:4] == b"\x1a\x45\xdf\xa3"  # EBML, and so WebM
    assert len(video) > 5000


# -- random numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [normal, uniform_, unit, bernoulli, censored_normal])
def test_random_numbers_are_those_of_torch(prior: Any, browser: Any) -> None:
    source = (Path(playground.__file__).parent / "random.js").read_text()
    module = f"data:text/javascript;base64,{base64.b64encode(source.encode()).decode()}"
    seeds = [*range(40), 2**20, 2**31, 2**32 + 5]
    with visit(browser, "about:blank", ready=False) as found:
        for nz in (1, 7, 15, 16, 17, 100, 128, 509):
            for limit in (None, 0.4, 1.5) if prior in (normal, uniform_) else (None,):
                ours = found.page.evaluate(
                    """async ([url, seeds, nz, prior, limit]) => {
                        const {latent} = await import(url), stop = {limit, factor: 1};
                        return seeds.map(s => Array.from(latent(s, nz, prior, stop)));
                    }""",
                    [module, seeds, nz, prior.__name__, limit],
                )
                expected = latents_of(seeds, nz, prior, limit)
                torch.testing.assert_close(
                    torch.tensor(ours, dtype=torch.float32), expected, rtol=0, atol=2e-6
                )


def test_classes_of_seeds_are_those_of_torch(browser: Any) -> None:
    source = (Path(playground.__file__).parent / "random.js").read_text()
    module = f"data:text/javascript;base64,{base64.b64encode(source.encode()).decode()}"
    shares = torch.tensor([0.5, 0.0, 0.2, 0.3])
    script = """async ([url, classes, bounds]) => {
        const {labelOf} = await import(url);
        return Array.from({length: 2000}, (_, seed) => labelOf(seed, classes, bounds));
    }"""
    with visit(browser, "about:blank", ready=False) as found:
        equal = found.page.evaluate(script, [module, 7, None])
        bounds = shares.double().cumsum(0).tolist()
        unequal = found.page.evaluate(script, [module, 4, bounds])
    assert equal == uniform_classes(range(2000), 7).tolist()
    assert unequal == shared_classes(range(2000), shares).tolist()


def test_seeds_are_limited_if_a_page_cannot_draw(browser: Any, made: Any) -> None:
    run = made("dcgan")
    facts = (run / "page" / "playground.json").read_text()
    with serving(run / "page") as url, visit(browser, "about:blank", ready=False) as found:
        changed = facts.replace('"prior": "uniform"', '"prior": "normal"')
        found.page.route("**/playground.json", lambda route: route.fulfill(body=changed))
        found.page.goto(url)
        found.page.wait_for_selector("body[data-ready]")
        found.settled()
        assert "Only pictures 0 to 31" in found.page.inner_text("#known")
        assert_near(found.pixels("#grid canvas")[:8], sampled(run, range(8)))
        found.page.click("#later")
        found.settled()
        assert_near(found.pixels("#grid canvas")[-1:], sampled(run, range(31, 32)))
        assert found.page.locator("#later").is_disabled()


# -- translations ----------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos of odd sizes and of several kinds, one in a folder of its own."""
    numbers = np.random.default_rng(0)

    def smooth(height: int, width: int, channels: int) -> np.ndarray:
        small = numbers.integers(0, 256, (4, 4, channels), dtype=np.uint8)
        image = torch.from_numpy(small).permute(2, 0, 1)[None].float()
        large = torch.nn.functional.interpolate(image, (height, width), mode="bilinear")
        return large[0].permute(1, 2, 0).byte().numpy()

    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    Image.fromarray(smooth(37, 51, 3)).save(folder / "odd.png")
    Image.fromarray(smooth(21, 30, 1)[..., 0]).save(folder / "gray.png")
    alpha = smooth(40, 33, 4)
    alpha[..., 3] = np.where(alpha[..., 3] > 128, 255, 0)
    Image.fromarray(alpha).save(folder / "inner" / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = folder / f"{HOSTILE[:20].replace('/', '')}.jpg"
    Image.fromarray(smooth(24, 48, 3)).save(turned, quality=95, subsampling=0, exif=exif)
    return folder


def arrays(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    return {n: np.asarray(Image.open(io.BytesIO(d)).convert("RGBA")) for n, d in files.items()}


def check_translations(archive: Path, run: Path, photos: Path, direction: str) -> None:
    """The pictures of an archive are those that `python -m ganzoo.translate` writes."""
    out = photos.parent / direction
    translate.main([str(run), str(photos), str(out), "--direction", direction, "--png",
                    "--workers", "0"])  # fmt: skip
    files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.png")}
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        found = {n.removeprefix(f"{photos.name}/"): opened.read(n) for n in opened.namelist()}
    expected, ours = arrays(files), arrays(found)
    assert ours.keys() == expected.keys()
    for name, picture in expected.items():
        shown = picture[..., 3] > 0
        assert_near(ours[name][shown], picture[shown])
        assert_near(ours[name][..., 3], picture[..., 3])


def test_a_folder_is_translated_in_both_directions(opened: Any, made: Any, photos: Path) -> None:
    found, run = opened("cyclegan"), made("cyclegan")
    assert found.page.locator("#direction option").all_inner_texts() == [
        f"horses to {HOSTILE}",
        f"{HOSTILE} to horses",
    ]
    found.page.set_input_files("#folder", photos)
    found.until("document.querySelectorAll('#photos li').length == 4")
    for direction in ("AtoB", "BtoA"):
        found.page.select_option("#direction", direction)
        found.until("document.querySelector('#status').innerText == ''")
        check_translations(found.saved("#all"), run, photos, direction)
    found.page.focus("#line")
    found.page.keyboard.press("ArrowLeft")
    style = found.page.locator("#compare").get_attribute("style")
    assert "--line: 49.5%" in style
    assert (
        found.page.locator("#after")
        .evaluate("e => getComputedStyle(e).clipPath")
        .endswith("49.5%)")
    )


def test_photos_are_dropped_or_taken(opened: Any, photos: Path) -> None:
    found = opened("cyclegan")
    data = base64.b64encode((photos / "odd.png").read_bytes()).decode()
    found.page.evaluate(
        """([data, name]) => {
            const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], name + '.png'));
            dataTransfer.items.add(new File(['no image'], 'broken.png'));
            dataTransfer.items.add(new File(['text'], 'notes.txt'));
            document.body.dispatchEvent(new DragEvent('drop', {dataTransfer, bubbles: true}));
        }""",
        [data, HOSTILE],
    )
    found.page.wait_for_selector("#all:enabled")
    assert found.page.inner_text("#name") == f"{HOSTILE}.png"
    assert "broken.png, notes.txt" in found.page.inner_text("#problem")
    assert found.pixels("#after").shape == (1, 37, 51, 4)
    found.page.click("#camera")
    found.until("document.querySelector('#video').videoWidth > 0")
    found.page.select_option("#size", "256")
    found.page.click("#shoot")
    found.until(
        "document.querySelector('#name').innerText == 'camera-1.png' && "
        "document.querySelector('#status').innerText == ''"
    )
    assert max(found.pixels("#after").shape) == 256
    found.page.click("#camera")
    assert not found.page.is_visible("#video")


# -- for everybody ---------------------------------------------------------------------------------


@pytest.mark.skipif(not (TOOLS / "axe-core").is_dir(), reason="run make test-browser-tools")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["biggan", "cyclegan"])
def test_pages_are_accessible(kind: str, scheme: str, opened: Any, photos: Path) -> None:
    found = opened(kind, color_scheme=scheme)
    if kind == "cyclegan":
        found.page.set_input_files("#file", [photos / "odd.png", photos / "gray.png"])
        found.page.wait_for_selector("#all:enabled")
    for each in found.page.locator("summary").all():
        each.click()
    found.page.evaluate((TOOLS / "axe-core" / "axe.min.js").read_text())
    violations = found.page.evaluate("axe.run().then(result => result.violations)")
    assert [v["id"] for v in violations if v["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize("kind", ["biggan", "cyclegan"])
def test_pages_fit_a_phone(kind: str, opened: Any, photos: Path) -> None:
    found = opened(kind, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    if kind == "cyclegan":
        found.page.set_input_files("#folder", photos)
        found.page.wait_for_selector("#all:enabled")
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert len(found.page.screenshot(full_page=True)) > 5000
    small = """e => e.filter(b => b.offsetParent && b.getBoundingClientRect().height < 24)
                     .map(b => b.id)"""
    assert found.page.locator("button, select, input").evaluate_all(small) == []


def test_policy_stops_scripts_of_others(opened: Any) -> None:
    found = opened("dcgan")
    blocked = found.page.evaluate(
        """async () => {
            const broken = [];
            addEventListener('securitypolicyviolation', e => broken.push(e.effectiveDirective));
            const script = document.createElement('script');
            script.textContent = 'window.hit = 1';
            document.body.append(script);
            // Later, because what a debugger evaluates may evaluate more.
            const evaluate = () => { try { (0, eval)('window.hit = 1') } catch {} };
            await new Promise(resolve => setTimeout(() => resolve(evaluate())));
            await fetch('https://example.invalid/').catch(() => 0);
            await new Promise(resolve => setTimeout(resolve, 50));
            return [window.hit === undefined, ...new Set(broken.sort())];
        }"""
    )
    assert blocked == [True, "connect-src", "script-src", "script-src-elem"]
    assert all("Content Security Policy" in error for error in found.errors)
    found.errors.clear()


@pytest.mark.parametrize("kind", ["biggan", "cyclegan"])
def test_a_single_file_needs_no_server(kind: str, browser: Any, made: Any, photos: Path) -> None:
    run = made(kind)
    url = (run / "page.html").as_uri()
    with visit(browser, url) as found:
        if kind == "cyclegan":
            found.page.set_input_files("#file", photos / "odd.png")
            found.page.wait_for_selector("#all:enabled")
            assert found.pixels("#after").shape == (1, 37, 51, 4)
        else:
            found.settled()
            assert_near(found.pixels("#grid canvas")[:8], sampled(run, range(8)))
        assert found.page.evaluate("window.hit") is None
        assert found.errors == []
        assert [r for r in found.requests if not r.startswith((url, "blob:", "data:"))] == []
        injected = """<img src=x onerror="window.hit = 1"><script>window.hit = 1</script>
            <iframe srcdoc="<script>parent.hit = 1</script>"></iframe>"""
        found.page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", injected)
        found.page.wait_for_timeout(100)
        assert found.page.evaluate("window.hit") is None


PROBLEMS: Sequence[tuple[str, str]] = [
    ("delete window.DecompressionStream", "too old"),
    ("window.Worker = class { constructor() { setTimeout(() => this.onerror()) } }", "worker"),
]


@pytest.mark.parametrize(("script", "said"), PROBLEMS)
def test_what_a_browser_lacks_is_said(script: str, said: str, browser: Any, made: Any) -> None:
    with (
        serving(made("dcgan") / "page") as url,
        visit(browser, "about:blank", ready=False) as found,
    ):
        found.page.add_init_script(script)
        found.page.goto(url)
        found.until("document.querySelector('#problem').innerText")
        assert said in found.page.inner_text("#problem")


def test_a_file_that_is_missing_is_named(browser: Any, made: Any) -> None:
    with (
        serving(made("dcgan") / "page") as url,
        visit(browser, "about:blank", ready=False) as found,
    ):
        found.page.route("**/generator.onnx", lambda route: route.fulfill(status=404))
        found.page.goto(url)
        found.until("document.querySelector('#problem').innerText")
        assert "generator.onnx could not be loaded (404)" in found.page.inner_text("#problem")
        found.page.goto((made("dcgan") / "page" / "index.html").as_uri())
        found.page.wait_for_selector(".late >> visible=true")
        assert "--single-file" in found.page.inner_text("#status")
