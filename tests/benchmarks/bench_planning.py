"""What `samlib plan` predicts against what a group of models then takes, trained whole on the real data, by one worker.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_planning.py

A prediction is of a machine that does nothing else, so on a CPU the processor's time is compared; the wall clock stands beside
it. Measured twice, on two AVX-512 cores under a load of 4 to 6: real over planned .61 to 1.09, most within .1 of 1.
What workers lose to each other on shared caches, and take to start (seconds), is not predicted.
"""

import os
import platform
import time

import torch

import samlib
from samlib import planning
from samlib.data import shape_of
from samlib.training import group_size, train_group

EXPERIMENTS = [
    {"dataset": "digits"},
    {"dataset": "digits", "optimizer": "sam"},
    {"dataset": "location30", "optimizer": "sam", "epochs": 20},
    {"dataset": "digits", "model": "cnn", "optimizer": "asam", "epochs": 10},
    {"dataset": "cifar100-coarse", "optimizer": "sam", "epochs": 6},
    {"dataset": "cifar100-coarse", "model": "resnet18", "pool": 256, "epochs": 1},
]


def main():
    device = "cuda:0" if torch.cuda.device_count() else "cpu"
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, {device}, load {os.getloadavg()[0]:.1f}")
    for fields in EXPERIMENTS:
        experiment = samlib.Experiment(**fields)
        if not shape_of(experiment.dataset).at_hand:
            continue
        dataset = samlib.load_dataset(experiment.dataset, pool=experiment.pool)
        data = dataset.arrays()
        for side in ("x_test", "y_test"):
            data[side] = data[side][:1000]  # resnet18 takes minutes for all of CIFAR-100's
        shape = planning.shape_of(experiment.dataset)._replace(n_train=len(data["y_train"]), n_test=len(data["y_test"]))
        start = time.perf_counter()
        planned = planning.probe(experiment, shape).seconds(experiment, shape)
        probing, start, cpu = time.perf_counter() - start, time.perf_counter(), time.process_time()
        train_group(experiment.model_dump(), data, range(group_size(experiment.model_dump())), device)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        real = cpu if device == "cpu" else wall
        print(
            f"{experiment}: planned {planned:.2f} s, took {real:.2f}, ratio {real / planned:.2f}; wall {wall:.2f}; "
            f"planning took {probing:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
