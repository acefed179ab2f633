"""Makes what lies in this folder, by the same commands that a user types.

    PELLUCID_DATA=/path/to/data python docs/gallery/make.py adult fashion latent demo

adult and fashion fit for five minutes each on the Adult census table and on Fashion-MNIST, then sample, explain and
compare. latent runs benchmarks/latent_diffusion.py, which shows its samples here: blood cells by diffusion
through a learned latent space. demo runs `pellucid demo` and takes pictures of its report with a headless Chromium.
Runs go to runs/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
RUNS = HERE.parent.parent / "runs" / "gallery"


def pellucid(*words: str | Path) -> None:
    """Run a command as a user would, and show it."""
    sys.stdout.write(" ".join(["$ pellucid", *map(str, words)]) + "\n")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "pellucid", *map(str, words)], check=True)


def data() -> Path:
    if "PELLUCID_DATA" not in os.environ:
        sys.exit("PELLUCID_DATA is not set; it names the folder that holds adult/ and fashion_mnist/")
    return Path(os.environ["PELLUCID_DATA"])


def photograph(page: Path, out: Path, *, width: int, top: int, height: int) -> None:
    """A picture of a part of a page, made by a headless Chromium and kept small."""
    from PIL import Image

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("chromium is not installed; it takes the pictures of reports")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
        subprocess.run(
            [
                chromium,
                *flags,
                f"--window-size={width},{top + height}",
                f"--screenshot={shot}",
                page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
        )
        picture = Image.open(shot).convert("RGB").crop((0, top, width, top + height))
        picture.quantize(128).save(out, optimize=True)


def adult() -> None:
    """A table: fit, sample, explain, compare."""
    table, run = data() / "adult" / "adult_train.csv.gz", RUNS / "adult"
    pellucid("fit", table, "--target", "income", "--minutes", "5", "--out", run, "--force")
    pellucid("sample", run, "-n", "2000", "--seed", "7", "--out", HERE / "adult_samples.csv", "--force")
    pellucid("sample", run, "-n", "200", "--where", "sex=Female", "--where", "age=>=60", "--out",
             HERE / "adult_women_over_60.csv", "--force")  # fmt: skip
    pellucid("explain", run, "--seed", "7", "--index", "3", "--out", HERE / "adult_why.html", "--force")
    pellucid("compare", table, "--target", "income", "--families", "vae,gan,flow,autoregressive,diffusion,ngram",
             "--minutes", "9", "--out", HERE / "adult_compare.html", "--force")  # fmt: skip


def fashion() -> None:
    """Pictures: fit, sample, explain, compare."""
    pictures, run = data() / "fashion_mnist", RUNS / "fashion"
    pellucid("fit", pictures, "--minutes", "5", "--out", run, "--force")
    pellucid("sample", run, "-n", "100", "--seed", "7", "--out", HERE / "fashion_samples.png", "--force")
    pellucid("explain", run, "--seed", "7", "--index", "3", "--out", HERE / "fashion_why.html", "--force")
    pellucid("compare", pictures, "--families", "vae,gan,diffusion", "--minutes", "6", "--out",
             HERE / "fashion_compare.html", "--force")  # fmt: skip


def latent() -> None:
    """Pictures by diffusion through a learned latent space, with the figures that go with them."""
    script = HERE.parent.parent / "benchmarks" / "latent_diffusion.py"
    subprocess.run([sys.executable, script, "--models", "vae"], check=True)


def demo() -> None:
    """The demo's report and pictures of it."""
    pellucid("demo", "--out", HERE / "demo.html")
    photograph(HERE / "demo.html", HERE / "demo.png", width=1250, top=0, height=2300)


if __name__ == "__main__":
    made = {"adult": adult, "fashion": fashion, "latent": latent, "demo": demo}
    asked = sys.argv[1:] or list(made)
    unknown = [name for name in asked if name not in made]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; one of {', '.join(made)}")
    for name in asked:
        made[name]()
