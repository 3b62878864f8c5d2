"""What side-ray does with a GPU, beside the bare torch operation and FAISS: `make gpu`.

    python -m bench.gpu [--device cuda] [--scale full] [--section search] [--out gpu.json]

Sections: peaks (matrix products and copies), search (exactness against float64, FAISS and cuVS), sampling (plain and guided),
embedding, training. Each runs in its own process with a time limit; the table grows and `--out` is written again after every
line, so that a cut-off loses only the rest. What is not installed is named and left out. `--device cpu --scale small` tries the
script itself.
"""

import argparse
import json
import multiprocessing
import platform
import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"


@dataclass(frozen=True)
class Options:
    device: str
    small: bool

    def pick(self, full: Any, small: Any) -> Any:
        return small if self.small else full


@dataclass(frozen=True)
class Line:
    """One measurement and what it is compared with; a ratio above 1 means that side-ray is faster or better."""

    section: str
    name: str
    value: float | None
    unit: str
    beside: str = ""
    other: float | None = None
    ratio: float | None = None
    note: str = ""

    def __str__(self) -> str:
        value = "" if self.value is None else f"{self.value:,.4g}"
        other = "" if self.other is None else f"{self.other:,.4g}"
        ratio = "" if self.ratio is None else f"{self.ratio:.3f}"
        return f"{self.section:<10}{self.name:<44}{value:>10} {self.unit:<11}{self.beside:<28}{other:>10} {ratio:>8}  {self.note}"


Say = Callable[[Line], None]
HEAD = f"{'section':<10}{'what':<44}{'side-ray':>10} {'unit':<11}{'beside':<28}{'':>10} {'ratio':>8}"


def seconds_of(run: Callable[[], object], device: str, rounds: int = 3) -> float:
    """Median wall-clock seconds of a call, after one that warms up, with all work of the device finished."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine(options: Options) -> dict[str, str]:
    about = {"python": platform.python_version(), "torch": torch.__version__}
    if options.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        about["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    packages = ("numpy", "diffusers", "faiss-gpu", "faiss-cpu", "cuvs-cu12", "cuvs-cu13", "ray")
    return about | {name: installed(name) for name in packages}


PEAKS = {"int8": torch.int8, "fp16": torch.float16, "bf16": torch.bfloat16, "float32": torch.float32}


def peak(precision: str, options: Options) -> float:
    """Operations per second of a large square matrix product."""
    size = options.pick(8192, 512)
    a, b = (torch.randn(size, size, device=options.device) for _ in range(2))
    if precision == "int8":
        a, b = ((10 * each).round().to(torch.int8) for each in (a, b))
        return 2 * size**3 / seconds_of(lambda: torch._int_mm(a, b.T), options.device, 10)
    a, b = a.to(PEAKS[precision]), b.to(PEAKS[precision])
    return 2 * size**3 / seconds_of(lambda: a @ b.T, options.device, 10)


def peaks(options: Options, say: Say) -> None:
    for precision in PEAKS:
        say(Line("peaks", f"matrix product, {precision}", peak(precision, options) / 1e12, "T op/s"))
    data = torch.empty(options.pick(2**30, 2**24), dtype=torch.float32, device=options.device)
    target = torch.empty_like(data)
    rate = 2 * data.nbytes / seconds_of(lambda: target.copy_(data), options.device, 5)
    say(Line("peaks", "copy on the device, read and write", rate / 1e9, "GB/s"))
    host = np.empty(options.pick(2**26, 2**22), np.float32)
    rate = host.nbytes / seconds_of(lambda: torch.from_numpy(host).to(options.device), options.device, 5)
    say(Line("peaks", "copy from pageable memory", rate / 1e9, "GB/s"))


def search(options: Options, say: Say) -> None:
    from bench.score import SHAPES

    for name, full in SHAPES.items():
        search_shape(name, full.scaled(options.pick(1.0, 0.02)), options, say)
    if not options.small:
        search_million(options, say)


def search_shape(name: str, shape: Any, options: Options, say: Say) -> None:
    """One shape of `bench.score`: from numpy to numpy, on the device alone, beside others, and against float64."""
    from bench.score import K, check, levels_of, make_data, score
    from side_ray.search import Index

    device = torch.device(options.device)
    samples, train = make_data(shape)
    metric: Any = "l2" if name == "nl2" else "ip"
    levels = levels_of(shape) if name == "sscd" else None
    start = time.perf_counter()
    index = Index(train, np.arange(shape.train), metric, engine="torch", kernel="device")
    size = f"{shape.samples:,} × {shape.train:,} × {shape.dimension:,}"
    say(Line("search", f"{name}: load the training images", time.perf_counter() - start, "s", note=size))
    kernel: Any = index.kernel
    precision, part = kernel.precision, kernel.parts[0]
    took = seconds_of(lambda: index.search(samples, K, levels), options.device)
    floor = shape.flops / peak(precision, options)
    ours = f"{name}: 50 nearest{', all counts' if levels else ''} ({precision})"
    say(Line("search", ours, took, "s", "products at the peak", floor, floor / took, "from numpy to numpy"))
    if name == "nl2":
        say(
            Line(
                "search",
                "nl2: counts in the paper's bands",
                count_paper_bands(index, samples, options),
                "s",
                note="all pairs",
            )
        )
    queries = [torch.from_numpy(block).to(device) for block in np.array_split(samples, -(-len(samples) // 8192))]

    def resident(kind: str) -> float:
        part.arranged(kind)
        return seconds_of(
            lambda: [part.find(each, np.arange(len(each)), K, None, kind) for each in queries], options.device
        )

    codes = part.arranged(precision)
    coded = [codes.encoder.encode(block).codes for block in queries]
    bare = seconds_of(lambda: _products(coded, codes.codes), options.device)
    say(Line("search", f"{name}: bare products ({precision})", bare, "s", "products at the peak", floor, floor / bare))
    alone = resident(precision)
    what = f"{name}: 50 nearest, queries there ({precision})"
    say(Line("search", what, alone, "s", "bare products", bare, bare / alone, "without copies"))
    for kind in () if options.small else ({"fp16", "bf16", "float32"} - {precision}):
        say(Line("search", f"{name}: 50 nearest, queries there ({kind})", resident(kind), "s"))
    for other, way in (("torch.mm, topk", _naive), ("FAISS GpuIndexFlat", _faiss), ("cuVS brute force", _cuvs)):
        run = way(samples, train, metric, K, device)
        if isinstance(run, str):
            say(Line("search", f"{name}: beside {other}", None, "", note=run))
        else:
            theirs = seconds_of(run, options.device)
            say(Line("search", ours, took, "s", other, theirs, theirs / took, "float32, without counts"))
    wrong = check(shape, index, samples, train, score(shape, index, samples), 200)
    say(Line("search", f"{name}: differences, 200 samples", wrong, "", "float64 brute force", 0, note="ids and counts"))


def count_paper_bands(index: Any, samples: np.ndarray, options: Options) -> float:
    """Seconds of counting nearly all pairs."""
    from bench.score import K
    from side_ray.similarity.nl2 import Nl2
    from side_ray.statistics.bands import Bands

    denominator, bands = Nl2().denominator(index.search(samples, K)[0]), Bands.make("paper", Nl2).levels()
    return seconds_of(lambda: index.count(samples, bands, denominator), options.device, 1)


def search_million(options: Options, say: Say) -> None:
    """10,000 × 1,000,000 × 512."""
    from bench.score import SHAPES, K, levels_of
    from side_ray.search import Index

    device = torch.device(options.device)
    generator = torch.Generator(device).manual_seed(0)
    train, samples = (torch.randn(rows, 512, device=device, generator=generator) for rows in (10**6, 10**4))
    samples[::10] = train[: len(samples) // 10] + 0.8 * samples[::10]
    train, samples = (torch.nn.functional.normalize(each) for each in (train, samples))
    host, asked = train.cpu().numpy(), samples.cpu().numpy()
    start = time.perf_counter()
    index = Index(host, np.arange(len(host)), "ip", engine="torch", kernel="device")
    say(
        Line(
            "search", "a million: load the training images", time.perf_counter() - start, "s", note="10,000 × 10⁶ × 512"
        )
    )
    levels = levels_of(SHAPES["sscd"])
    took = seconds_of(lambda: index.search(asked, K, levels), options.device)
    floor = 2.0 * len(host) * len(asked) * 512 / peak(index.kernel.precision, options)  # type: ignore[attr-defined]
    say(Line("search", "a million: 50 nearest, all counts", took, "s", "products at the peak", floor, floor / took))
    found = index.search(asked[:200], K)[0].ids
    exact = samples[:200].double() @ train.double().T
    wanted = torch.sort(exact, dim=1, descending=True, stable=True).indices[:, :K].cpu().numpy()
    say(
        Line(
            "search", "a million: differences, 200 samples", int((wanted != found).sum()), "", "float64 brute force", 0
        )
    )


def _products(queries: list[torch.Tensor], train: torch.Tensor) -> None:
    from side_ray.search.device.products import multiply

    for block in queries:
        for part in train.split(2**16):
            multiply(block, part)


def _naive(samples: np.ndarray, train: np.ndarray, metric: str, k: int, device: torch.device) -> Callable[[], object]:
    there = torch.from_numpy(train).to(device)
    norms = there.square().sum(dim=1)

    def run() -> None:
        for block in np.array_split(samples, -(-len(samples) // 4096)):
            products = torch.from_numpy(block).to(device) @ there.T
            scores = products if metric == "ip" else 2 * products - norms
            values, columns = torch.topk(scores, k, dim=1)
            values.cpu(), columns.cpu()

    return run


def _faiss(
    samples: np.ndarray, train: np.ndarray, metric: str, k: int, device: torch.device
) -> Callable[[], object] | str:
    if find_spec("faiss") is None:
        return "FAISS is not installed"
    try:
        import faiss
    except (ImportError, OSError, RuntimeError) as error:
        return f"FAISS cannot be loaded: {error}"
    kind = "IP" if metric == "ip" else "L2"
    if device.type == "cpu":
        index = getattr(faiss, f"IndexFlat{kind}")(train.shape[1])
    elif not hasattr(faiss, "StandardGpuResources"):
        return "this FAISS has no GPU code; install faiss-gpu"
    else:
        index = getattr(faiss, f"GpuIndexFlat{kind}")(faiss.StandardGpuResources(), train.shape[1])
    index.add(train)
    return lambda: index.search(samples, k)


def _cuvs(
    samples: np.ndarray, train: np.ndarray, metric: str, k: int, device: torch.device
) -> Callable[[], object] | str:
    if device.type == "cpu":
        return "cuVS needs a GPU"
    if find_spec("cuvs") is None:
        return "cuVS is not installed"
    from cuvs.neighbors import brute_force

    index = brute_force.build(
        torch.from_numpy(train).to(device), metric="inner_product" if metric == "ip" else "sqeuclidean"
    )

    def run() -> None:
        values, columns = brute_force.search(index, torch.from_numpy(samples).to(device), k)
        values.copy_to_host(), columns.copy_to_host()

    return run


def networks(name: str, options: Options) -> tuple[Any, Any, tuple[int, int, int], int]:
    """U-Net, untrained student of the same audit, image shape and batch size."""
    from side_ray.config.file import load_config
    from side_ray.diffusion.denoisers.unet import unet_section
    from side_ray.diffusion.unet_dpm import new_unet
    from side_ray.surrogate.resnet import ResNet

    shape = (1, 8, 8) if name == "digits" else (3, 32, 32)
    config = load_config(CONFIGS / f"{name}.yaml", [])
    torch.manual_seed(0)
    unet = new_unet(unet_section(config.dpm).model_dump(), shape).to(options.device).eval()
    student = ResNet.from_section(config.surrogate, num_classes=100, in_channels=shape[0], time=True)
    batch = options.pick(2000 if name == "digits" else 500, 4)
    return unet, student.to(options.device).eval().requires_grad_(False), shape, batch


def sampling(options: Options, say: Say) -> None:
    for name in ("digits",) if options.small else ("digits", "cifar10"):
        rates = {precision: sampling_rates(name, precision, options, say) for precision in ("fp32", "bf16")}
        for way, single, mixed in zip(("plain", "guided"), *rates.values(), strict=True):
            say(Line("sampling", f"{name}, {way}, bf16", mixed, "images/s", "float32", single, mixed / single))


def sampling_rates(name: str, precision: str, options: Options, say: Say) -> tuple[float, float]:
    """Images per second of `draw`, plain and guided, beside a bare loop and the bare network."""
    from diffusers import DDIMScheduler

    from bench.sample import bare_guided_loop, bare_loop
    from side_ray.diffusion.draw import PRECISIONS, DrawSettings, draw
    from side_ray.diffusion.guidance import ClassifierSurrogate
    from side_ray.diffusion.noise_process import new_schedule
    from side_ray.diffusion.sampler import sample_seed
    from side_ray.diffusion.samplers.ddim import Ddim
    from side_ray.diffusion.unet_dpm import UnetDpm

    steps, (unet, student, shape, batch) = options.pick(10, 2), networks(name, options)
    dpm = UnetDpm(unet, new_schedule())
    seeds = [sample_seed(0, "extract", i) for i in range(batch)]
    targets, t = torch.arange(batch, device=dpm.device) % 100, torch.full((batch,), 500, device=dpm.device)
    scheduler = DDIMScheduler.from_config(dpm.schedule.config)
    noise = torch.randn(batch, *shape, device=dpm.device)
    settings, dtype = DrawSettings(Ddim(steps), (0.0, 1.0), batch, precision), PRECISIONS[precision]

    def bare(run: Callable[[], object]) -> float:
        with torch.autocast(options.device, dtype=dtype) if dtype else nullcontext():
            return batch / seconds_of(run, options.device, 2)

    def network() -> None:
        with torch.no_grad():
            for _ in range(steps):
                unet(noise, t)

    plain = batch / seconds_of(lambda: draw(dpm, seeds, settings), options.device, 2)
    loop = bare(lambda: bare_loop(unet, scheduler, noise, steps, use_clipped_model_output=True))
    alone = bare(network)
    surrogate = ClassifierSurrogate(student, 100, 5.0)
    guided = batch / seconds_of(lambda: draw(dpm, seeds, settings, surrogate), options.device, 2)
    guided_loop = bare(lambda: bare_guided_loop(unet, student, scheduler, noise, steps, targets, 5.0))
    note = f"{steps} steps of {batch}"
    say(Line("sampling", f"{name}, plain, {precision}", plain, "images/s", "diffusers' loop", loop, plain / loop, note))
    say(
        Line("sampling", f"{name}, plain, {precision}", plain, "images/s", "the bare U-Net", alone, plain / alone, note)
    )
    say(
        Line(
            "sampling",
            f"{name}, guided, {precision}",
            guided,
            "images/s",
            "a naive loop",
            guided_loop,
            guided / guided_loop,
            note,
        )
    )
    say(Line("sampling", f"{name}, {precision}: guidance takes", 100 * (plain / guided - 1), "% more"))
    return plain, guided


def embedding(options: Options, say: Say) -> None:
    from side_ray.similarity.encoder import ImageEncoder
    from side_ray.surrogate.resnet import ResNet

    side, batch = options.pick(288, 64), options.pick(64, 2)
    network = ResNet.preset("resnet34", 512, stem="imagenet").eval()
    images = np.random.default_rng(0).integers(0, 256, (options.pick(1024, 4), side, side, 3), np.uint8)
    example = torch.zeros(2, 3, side, side)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "encoder.pt"
        torch.jit.trace(network, example).save(str(path))
        encoder = ImageEncoder(path, "resize288", "score.checkpoint", device=options.device, batch_size=batch)
        ours = len(images) / seconds_of(lambda: encoder.embed(images), options.device, 2)
    network = network.to(options.device)
    given = torch.randn(batch, 3, side, side, device=options.device)

    def bare() -> None:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for _ in range(len(images) // batch):
                network(given)

    what = f"ResNet-34, {side} × {side}, float32"
    single = len(images) / seconds_of(bare, options.device, 2)
    say(Line("embedding", what, ours, "images/s", "the bare network, float32", single, ours / single, "from uint8"))
    with torch.autocast(options.device, dtype=torch.bfloat16):
        mixed = len(images) / seconds_of(bare, options.device, 2)
    say(Line("embedding", what, ours, "images/s", "the bare network, bf16", mixed, ours / mixed, "from uint8"))


def training(options: Options, say: Say) -> None:
    for name in ("digits",) if options.small else ("digits", "cifar10"):
        for precision in ("fp32", "bf16"):
            train_beside(name, precision, options, say)


def train_beside(name: str, precision: str, options: Options, say: Say) -> None:
    """Steps per second of the training loop, without Ray, and of a bare one."""
    from accelerate.state import AcceleratorState
    from diffusers.training_utils import EMAModel

    from side_ray.config.file import load_config
    from side_ray.diffusion.denoisers.unet import unet_section
    from side_ray.diffusion.draw import PRECISIONS
    from side_ray.diffusion.noise_process import new_schedule
    from side_ray.diffusion.unet_dpm import new_unet
    from side_ray.images import ImageSet
    from side_ray.runs.run import Artifact
    from side_ray.stages.train_dpm import DpmRecipe
    from side_ray.storage import open_store
    from side_ray.training.data import Cached, epoch_order
    from side_ray.training.loop import Schedule, TrainingLoop, TrainSpec

    device, steps = torch.device(options.device), options.pick(30, 2)
    shape = (8, 8, 1) if name == "digits" else (32, 32, 3)
    dpm = load_config(CONFIGS / f"{name}.yaml", []).dpm
    pixels = np.random.default_rng(0).integers(0, 256, (5000, *shape), np.uint8)
    images = ImageSet(np.arange(len(pixels)), pixels, None)

    def recipe(there: torch.device) -> DpmRecipe:
        return DpmRecipe(Cached(images, epoch_order(len(images), dpm.batch_size, 0), there), dpm, 0, there)

    schedule = Schedule(
        steps=10**6,
        batch_size=dpm.batch_size,
        lr=dpm.lr,
        weight_decay=dpm.weight_decay,
        checkpoint_every=10**6,
        grad_clip=dpm.grad_clip,
        ema_decay=dpm.ema_decay,
    )
    with tempfile.TemporaryDirectory() as directory:
        AcceleratorState._reset_state(True)  # one process trains in one precision otherwise
        loop = TrainingLoop(TrainSpec(Artifact(open_store(directory), "dpm/bench"), recipe, schedule, precision, 4))
        ours = seconds_of(lambda: loop.run(until=loop.step + steps), options.device, 2)
        if loop.logger is not None:
            loop.logger.close()
    unet = new_unet(unet_section(dpm).model_dump(), (shape[2], *shape[:2])).to(device)
    noises, dtype = new_schedule(dpm.schedule, dpm.timesteps), PRECISIONS[precision]
    ema = EMAModel(unet.parameters(), decay=dpm.ema_decay, foreach=True)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=dpm.lr, weight_decay=dpm.weight_decay)
    data = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1

    def bare() -> None:
        for _ in range(steps):
            x0 = data[torch.randint(len(data), (dpm.batch_size,), device=device)]
            eps, t = torch.randn_like(x0), torch.randint(dpm.timesteps, (len(x0),), device=device)
            with torch.autocast(options.device, dtype=dtype) if dtype else nullcontext():
                predicted = unet(noises.add_noise(x0, eps, t), t).sample
            loss = torch.nn.functional.mse_loss(predicted.float(), eps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), dpm.grad_clip)
            optimizer.step()
            ema.step(unet.parameters())

    theirs = seconds_of(bare, options.device, 2)
    what = f"{name}, {precision}, batch {dpm.batch_size}"
    say(Line("training", what, steps / ours, "steps/s", "a bare torch loop", steps / theirs, theirs / ours))


SECTIONS: dict[str, tuple[Callable[[Options, Say], None], int]] = {
    "peaks": (peaks, 60),
    "search": (search, 150),
    "sampling": (sampling, 120),
    "embedding": (embedding, 60),
    "training": (training, 120),
}
"""Each section and its time limit in seconds."""


def _worker(name: str, options: Options, lines: Any) -> None:
    try:
        SECTIONS[name][0](options, lines.put)
    except ImportError as error:
        lines.put(Line(name, "left out", None, "", note=f"not installed: {error.name or error}"))
    except Exception as error:  # the other sections still run
        lines.put(Line(name, "failed", None, "", note=f"{type(error).__name__}: {error}"[:300]))
    lines.put(None)


def run_section(name: str, options: Options, say: Say) -> None:
    """Run a section in a process of its own and pass its lines on until it ends or its time is over."""
    context = multiprocessing.get_context("spawn")
    lines = context.Queue()
    process = context.Process(target=_worker, args=(name, options, lines), daemon=True)
    began, limit = time.monotonic(), SECTIONS[name][1] * (1 if options.device == "cuda" else 10)
    process.start()
    while True:
        try:
            line = lines.get(timeout=max(0.1, min(5.0, began + limit - time.monotonic())))
        except queue.Empty:
            if time.monotonic() - began >= limit:
                say(Line(name, "cut off", None, "", note=f"after its limit of {limit} s"))
                break
            if not process.is_alive():
                say(Line(name, "failed", None, "", note=f"the process ended with {process.exitcode}"))
                break
            continue
        if line is None:
            break
        say(line)
    process.kill()
    process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--section", choices=SECTIONS, action="append", help="one section; all by default")
    parser.add_argument("--out", type=Path, help="write the lines to this file as JSON")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench.gpu: torch sees no CUDA GPU here; on a processor, try: --device cpu --scale small")
    options = Options(chosen.device, chosen.scale == "small")
    about, lines = machine(options), []
    print("\n".join(f"{name}: {value}" for name, value in about.items()), HEAD, sep="\n\n", flush=True)

    def say(line: Line) -> None:
        print(line, flush=True)
        lines.append(asdict(line))
        if chosen.out:
            chosen.out.write_text(json.dumps({"machine": about, "lines": lines}, indent=1))

    for name in chosen.section or SECTIONS:
        run_section(name, options, say)


if __name__ == "__main__":
    main()
