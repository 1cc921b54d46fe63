"""What a GPU reaches: passes a second, models a minute, and the share of its matrix rate; and its memory's bandwidth.

    python tests/benchmarks/bench_gpu.py [--device cuda] [--only resnet18 cnn ...] [--smoke]

A pass is forward and backward over one example; SGD makes one for each example, SAM two. Each row trains pairs of SGD and SAM
as samlib trains them, on random data of the named set's shape, and counts the whole time: measuring, capturing, compiling,
training, the evaluation of all examples and the signals. Beside them is the loop that one would write first: one model, a
DataLoader, bfloat16 by autocast, no graph. The matrix rate is that of two 8192 x 8192 matrices in bfloat16, the bandwidth
that of a copy, bytes read and written, both in the same run. Takes at most three minutes on an H100.

On one H200 (torch 2.11, 28 November 2026; 784 to 789 TFLOP/s, 3.75 to 3.90 TB/s):

- resnet18, 8 pairs of 6 epochs: 74.3 s, 48,400 passes/s (SGD 41,500, SAM 52,800); the plain loop 5,660.
- mlp, 1,000 pairs: 17.9 s.
- cnn, 32 pairs, in two new processes: 13.7 s each, 2.34 pairs/s. A step has 135 kernels, and the GPU starts them at a rate.
- The cnn's SGD steps a second with 8, 16 and 32 models side by side: with CUDA's own 8 queues 9,500, 9,900 and 10,000
  (3 processes), with the 32 that samlib asks for 9,500, 13,800 and 15,600 (2 processes). One graph that holds the steps of
  all models is no faster than one model (2,100).
- The first 10 s of a process: Python's imports 4 s, PyTorch's first optimizer 4 s (it imports the compiler), cuDNN's search for
  kernels 5 s. With 3 kernels to try in place of 10 the search took 1.8 s, and steps were 13 % faster (one process each).
"""

import argparse
import platform
import time
from datetime import date
from math import ceil

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import samlib
from samlib.models import build_model
from samlib.training import at_once, captured, train_group

# name: data set, its shape (train, test, example, classes), recipe, pairs
SMALL = {"model": "cnn", "pool": 5000, "epochs": 30, "precision": "bf16", "rho": 0.1}
LARGE = {"batch_size": 125, "augment": True, "precision": "bf16", "weight_decay": 5e-4}
CASES = {
    "resnet18": ("cifar100", (50_000, 10_000, (32, 32, 3), 100), LARGE | {"model": "resnet18", "epochs": 6}, 8),
    "resnet9": ("cifar10", (50_000, 10_000, (32, 32, 3), 10), LARGE | {"model": "resnet9", "epochs": 3}, 4),
    "cnn": ("cifar100-coarse", (5000, 10_000, (32, 32, 3), 20), SMALL, 32),
    "mlp": ("location30", (4010, 1000, (446,), 30), {}, 1000),
}


def seconds(call, device):
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    wait()
    start = time.perf_counter()
    result = call()
    wait()
    return time.perf_counter() - start, result


def ceilings(device):
    """Operations a second of a large product in bfloat16, and bytes a second of a copy."""
    n, times = (8192, 20) if device != "cpu" else (512, 3)
    left, right = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(n * n, device=device)
    target = torch.empty_like(source)
    left @ right
    spent, _ = seconds(lambda: [left @ right for _ in range(times)], device)
    copied, _ = seconds(lambda: [target.copy_(source) for _ in range(times)], device)
    return times * 2 * n**3 / spent, times * 2 * source.nbytes / copied


def operations(recipe, in_shape, n_classes):
    """Of a pass over one example."""
    with torch.device("meta"):
        model = build_model(recipe["model"], in_shape, n_classes, hidden=recipe["hidden"])
        x = torch.randn(2, *in_shape)
        with FlopCounterMode(display=False) as counter:
            model(x).sum().backward()
    return counter.get_total_flops() / 2


def random_data(n, t, example, n_classes):
    rng = np.random.default_rng(0)
    image = len(example) == 3
    made = {"n_classes": n_classes}
    for side, count in (("train", n), ("test", t)):
        x = rng.integers(0, 256 if image else 2, (count, *example), np.uint8)
        made |= {f"x_{side}": x if image else x.astype(np.float32), f"y_{side}": rng.integers(0, n_classes, count)}
    half = np.full(example[-1], 0.5, np.float32)
    return made | ({"mean": half, "std": half / 2} if image else {})


def plain_loop(recipe, data, epochs, device):
    """One model, as one would write it first."""
    images = (torch.from_numpy(data["x_train"]).float() / 255 - 0.5) / 0.25
    half = TensorDataset(images[::2].movedim(-1, 1).contiguous(), torch.from_numpy(data["y_train"][::2]))
    # the model takes images with their channels last, as the data sets have them
    model = build_model(recipe["model"], data["x_train"].shape[1:], data["n_classes"]).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for x, y in DataLoader(
            half, batch_size=recipe["batch_size"], shuffle=True, num_workers=0, pin_memory=device != "cpu"
        ):
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(x.movedim(1, -1)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def train(recipe, data, models, device):
    """As a worker does: at most so many models at once as are fastest. Returns the last wave's result."""
    take, start, result = at_once(recipe, data, device, models), 0, None
    while start < models:
        result = train_group(recipe, data, range(start, min(start + take, models)), device, models)
        start += take
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--smoke", action="store_true", help="a few models on little data, to see that this runs")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        print("No GPU: not measured.")
        return
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if args.device != "cpu" else platform.machine()
    rate, bandwidth = ceilings(args.device)
    print(f"{name}, torch {torch.__version__}, {date.today()}: {rate / 1e12:.1f} TFLOP/s, {bandwidth / 1e12:.2f} TB/s")
    for case in args.only:
        dataset, (n, t, example, n_classes), changes, pairs = CASES[case]
        if args.smoke:
            n, t, pairs, changes = 200, 100, 2, changes | {"epochs": 1, "pool": None}
        data = random_data(n, t, example, n_classes)
        recipes = {o: samlib.Experiment(dataset=dataset, optimizer=o, **changes).model_dump() for o in ("sgd", "sam")}
        recipe, size, spent = recipes["sgd"], 8 if case == "mlp" else 1, {}
        models, work, members = ceil(pairs / size) * size, operations(recipe, example, n_classes), n // 2
        if case == "resnet18":
            plain_loop(recipe, data | {side: data[side][:500] for side in ("x_train", "y_train")}, 1, args.device)
            loop, _ = seconds(lambda: plain_loop(recipe, data, 1, args.device), args.device)  # noqa: B023
            print(
                f"{case}, plain loop: {members / loop:,.0f} passes/s, {members / loop * work / rate:.1%} of the matrix rate"
            )
        for optimizer, one in recipes.items():
            spent[optimizer], result = seconds(lambda: train(one, data, models, args.device), args.device)  # noqa: B023
            passes = (1 + (optimizer == "sam")) * models * members * one["epochs"] / spent[optimizer]
            engine = next(reversed(captured._engines.values()), None)
            steady = engine.speed() if engine else float("nan")
            print(
                f"{case}, {optimizer}, {models} models of {members} examples, {one['epochs']} epochs: {spent[optimizer]:.1f} s, "
                f"{60 * models / spent[optimizer]:,.1f} models/min, {passes:,.0f} passes/s, "
                f"{passes * work / rate:.1%} of the matrix rate; steady {steady:,.0f} steps/s ({result['strategy'][0]})",
                flush=True,
            )
        both = sum(spent.values())
        print(
            f"{case}: {models} pairs in {both:.1f} s, {models / both:.2f} pairs/s, "
            f"{3 * models * members * recipe['epochs'] / both:,.0f} passes/s over both, start and evaluation included",
            flush=True,
        )
        captured._engines.clear()


if __name__ == "__main__":
    main()
