"""Models per second of the stacked trainer against a plain loop: one process, one torch thread, side by side, as ratios.

    python tests/benchmarks/bench_training.py [--models 16] [--epochs 10] [--rounds 3]

The plain loop is what one would write first: one model at a time, a DataLoader, a SAM step with a closure, float32.
Also printed: the rate of bare batched matrix products of the trainer's shapes, and the share of it that training reaches.
"""

import argparse
import platform
import time
from statistics import median

import torch
from torch.utils.data import DataLoader, TensorDataset

import samlib
from samlib.training import Streams, cosine, train_stacked


def plain_loop(recipe, data, streams, members):
    x, y = torch.from_numpy(data["x_train"]), torch.from_numpy(data["y_train"])
    for stream, member in zip(streams, members, strict=True):
        model = stream.build(recipe, x.shape[1:], data["n_classes"])
        settings = {name: recipe[name] for name in ("lr", "momentum", "weight_decay")}
        if recipe["optimizer"] == "sam":
            optimizer = samlib.SAM(model.parameters(), torch.optim.SGD, rho=recipe["rho"], **settings)
        else:
            optimizer = torch.optim.SGD(model.parameters(), **settings)
        loader = DataLoader(TensorDataset(x[member], y[member]), batch_size=recipe["batch_size"], shuffle=True)
        steps = len(loader) * recipe["epochs"]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step, steps=steps: cosine(step, steps))
        for _ in range(recipe["epochs"]):
            for inputs, labels in loader:

                def closure(model=model, inputs=inputs, labels=labels, optimizer=optimizer):
                    optimizer.zero_grad()
                    loss = torch.nn.functional.cross_entropy(model(inputs), labels)
                    loss.backward()
                    return loss

                optimizer.step(closure)
                scheduler.step()


def product_rate(widths, k, batch, dtype):
    """FLOP/s of the forward and both backward products of every layer, nothing else."""
    shapes = list(zip(widths, widths[1:], strict=False))
    triples = [
        (torch.randn(k, batch, i).to(dtype), torch.randn(k, i, o).to(dtype), torch.randn(k, batch, o).to(dtype))
        for i, o in shapes
    ]
    flop, spent = 0, 0.0
    for _ in range(30):
        for index, (a, w, d) in enumerate(triples):
            start = time.perf_counter()
            torch.bmm(a, w)
            torch.bmm(a.mT, d)
            if index:
                torch.bmm(d, w.mT)
            spent += time.perf_counter() - start
            flop += (3 if index else 2) * 2 * k * batch * w.shape[1] * w.shape[2]
    return flop / spent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--plain", type=int, default=2, help="models that the plain loop trains a round")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread")
    for name in ("digits", "location30"):
        dataset = samlib.load_dataset(name)
        data = {f: getattr(dataset, f) for f in ("x_train", "y_train", "x_test", "y_test")}
        data["n_classes"] = len(dataset.classes)
        for optimizer in ("sgd", "sam"):
            rate = {"plain": [], "float32": [], "bf16": []}
            for _ in range(args.rounds):
                for way in rate:
                    precision = "float32" if way == "plain" else way
                    experiment = samlib.Experiment(
                        dataset=name, optimizer=optimizer, epochs=args.epochs, precision=precision
                    )
                    recipe = experiment.model_dump()
                    count = args.plain if way == "plain" else args.models
                    streams = [Streams(0, k) for k in range(count)]
                    members = [s.member(len(data["y_train"]), recipe["subset_fraction"]) for s in streams]
                    start = time.perf_counter()
                    if way == "plain":
                        plain_loop(recipe, data, streams, members)
                    else:
                        train_stacked(recipe, data, streams, members, "cpu")
                    rate[way].append(count / (time.perf_counter() - start))
            widths = (dataset.x_train.shape[1], *recipe["hidden"], len(dataset.classes))
            first, second = widths[0] * widths[1], sum(a * b for a, b in zip(widths[1:], widths[2:], strict=False))
            flop = (2 * 2 * first + 3 * 2 * second) * int(members[0].sum()) * args.epochs * (1 + (optimizer == "sam"))
            print(
                f"{name} {'-'.join(map(str, widths))}, {optimizer}, batch {recipe['batch_size']}, {args.epochs} epochs:"
            )
            print(f"  plain loop          {median(rate['plain']):7.2f} models/s")
            for way, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
                ratio = median(a / b for a, b in zip(rate[way], rate["plain"], strict=True))
                bare = product_rate(widths, args.models, recipe["batch_size"], dtype)
                share = median(rate[way]) * flop / bare
                print(
                    f"  stacked {way:8s}    {median(rate[way]):7.2f} models/s   {ratio:5.2f} times the plain loop   "
                    f"{share:4.0%} of {bare / 1e9:.0f} GFLOP/s"
                )


if __name__ == "__main__":
    main()
