"""Models per minute on a GPU, and the share of its matrix rate that training reaches: resnet9 on CIFAR-10, resnet18 on CIFAR-100.

    python tests/benchmarks/bench_gpu.py [--device cuda] [--epochs 30] [--pool N] [--cases resnet9=cifar10 ...]

Half of the data set, SGD and SAM, bfloat16, no label smoothing; each trained compiled, as samlib does it on a GPU, and not. A
first model of one epoch pays for the compiler and is named apart. The rate is that of a product of two 8192 x 8192 matrices
in bfloat16, measured in the same run; the operations of a model are counted by torch, forward and backward, and those of SAM's
second pass with them. The time is that of a whole model, its building and the evaluation of all examples too. Train accuracy
says whether the models were trained for long enough (at least 99 %).
"""

import argparse
import platform
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

import samlib
from samlib.models import build_model
from samlib.training import each, train_group

CASES = ["resnet9=cifar10", "resnet18=cifar100"]


def seconds(call, device):
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def matrix_rate(device):
    """Operations a second of a large product in bfloat16."""
    n, times = (8192, 20) if device != "cpu" else (1024, 3)
    left, right = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    left @ right
    spent, _ = seconds(lambda: [left @ right for _ in range(times)], device)
    return times * 2 * n**3 / spent


def operations(model, in_shape, n_classes):
    """Of a forward and a backward pass over one image."""
    with torch.device("meta"):
        made, x = build_model(model, in_shape, n_classes), torch.randn(2, *in_shape)
        with FlopCounterMode(display=False) as counter:
            made(x).sum().backward()
    return counter.get_total_flops() / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--pool", type=int, help="the first examples of each data set alone")
    parser.add_argument("--cases", nargs="+", default=CASES, help="model=dataset")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("No GPU: not measured.")
        return
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if args.device != "cpu" else platform.machine()
    rate = matrix_rate(args.device)
    print(f"{name}, torch {torch.__version__}: {rate / 1e12:.2f} TFLOP/s in bfloat16 products")
    compilers = dict(each.COMPILERS)
    for model, dataset in (case.split("=") for case in args.cases):
        data = samlib.load_dataset(dataset, pool=args.pool).arrays()
        images, work = len(data["y_train"]) // 2, operations(model, data["x_train"].shape[1:], data["n_classes"])
        for optimizer in ("sgd", "sam"):
            for each.COMPILERS in (compilers, {}):
                recipe = samlib.Experiment(
                    dataset=dataset,
                    model=model,
                    optimizer=optimizer,
                    epochs=args.epochs,
                    batch_size=128,
                    precision="bf16",
                ).model_dump()
                first, _ = seconds(lambda: train_group(recipe | {"epochs": 1}, data, [0], args.device), args.device)  # noqa: B023
                spent, result = seconds(lambda: train_group(recipe, data, [1], args.device), args.device)  # noqa: B023
                share = (1 + (optimizer == "sam")) * args.epochs * images * work / spent / rate
                print(
                    f"{model} on {images} of {dataset}, {optimizer}, {args.epochs} epochs: {60 / spent:.2f} models a minute, "
                    f"{share:.1%} of the matrix rate, train accuracy {result['train_accuracy'][0]:.2%}, "
                    f"test {result['test_accuracy'][0]:.2%} ({result['strategy'][0]}; first, of one epoch, {first:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
