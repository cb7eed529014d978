"""Runs PyTorch for `peer.py`, which starts it in a process of its own.

Reads one JSON object per line from stdin and answers each with one on stdout. The
Python that runs it needs torch and none of the project's dependencies.
"""

import contextlib
import functools
import json
import os
import sys
import time
from typing import Any, TextIO

import torch  # pyright: ignore[reportMissingImports]

from benchmarks import memory
from benchmarks.torch_peer.models import (
    NUM_CLASSES,
    count_model,
    create_model,
    find_timm,
)
from benchmarks.torch_peer.peer import GPU_CONFIGURATIONS

DTYPES = ("float32", "bfloat16")
WEIGHT_DECAY = 0.05
# Calls before the first that counts, and those whose memory is looked at.
WARM_UP = 3
WATCHED = 2


class Work:
    """A model and a batch: calling it is one step of what a job asks for."""

    def __init__(self, job: dict[str, Any]):
        self.device = job["device"]
        self.is_rounded = _choose("dtype", job["dtype"], DTYPES) == "bfloat16"
        known = GPU_CONFIGURATIONS
        configuration = _choose("configuration", job["configuration"], known)
        work = _choose("work", job["work"], ("forward", "train"))
        self._step = self._train if work == "train" else self._infer
        torch.manual_seed(0)
        model = create_model(job["variant"]).to(self.device)
        size = (job["batch_size"], 3, job["image_size"], job["image_size"])
        self.images = torch.randn(size, device=self.device)
        logits = torch.randn(size[0], NUM_CLASSES, device=self.device)
        self.targets = logits.softmax(1)
        if configuration.endswith("channels_last"):
            model = model.to(memory_format=torch.channels_last)
            self.images = self.images.to(memory_format=torch.channels_last)
        self.model = model.train(work == "train")
        self.num_parameters = sum(p.numel() for p in model.parameters())
        if work == "train":
            self.optimizer = torch.optim.AdamW(
                model.parameters(), weight_decay=WEIGHT_DECAY, fused=True
            )
        if configuration.startswith("compile"):
            mode = "reduce-overhead" if configuration.endswith("graphs") else None
            self.model = torch.compile(model, dynamic=False, mode=mode)

    def __call__(self) -> None:
        """Does one step; a GPU may not be done with it before `wait` returns."""
        # Holds for the whole process, in which jobs take turns.
        torch.set_float32_matmul_precision("high" if self.is_rounded else "highest")
        self._step()

    def wait(self) -> None:
        """Returns when the device has nothing left to do."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _predict(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.is_rounded):
            return self.model(self.images)

    def _infer(self) -> None:
        with torch.inference_mode():
            self._predict()

    def _train(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        logits = self._predict().float()
        torch.nn.functional.cross_entropy(logits, self.targets).backward()
        self.optimizer.step()


def prepare(job: dict[str, Any]) -> tuple[Work, dict[str, Any]]:
    """Builds a job and warms it up; its peak is that of all it holds when warm."""
    on_gpu = job["device"] == "cuda"
    if not on_gpu:
        _load_libraries(is_compiled=str(job["configuration"]).startswith("compile"))
    start = time.perf_counter()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    with memory.PeakMemory() as peak:
        work = Work(job)
        for _ in range(WARM_UP):
            work()
        work.wait()
        seconds = time.perf_counter() - start
        peak.reset_peak()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(WATCHED):
            work()
        work.wait()
    peak_bytes = torch.cuda.max_memory_allocated() - before if on_gpu else peak.bytes
    _release(work.device)
    return work, {
        "prepare_seconds": seconds,
        "peak_bytes": peak_bytes,
        "num_parameters": work.num_parameters,
    }


def measure(work: Work, calls: int) -> dict[str, float]:
    """Returns what one of so many calls takes: time that passes, and of all cores."""
    if work.device == "cuda":
        work()  # Asks for the memory that was released.
    work.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        work()
    work.wait()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    _release(work.device)
    return {"seconds": wall / calls, "cpu_seconds": cpu / calls}


def _release(device: str) -> None:
    """Leaves the memory of a GPU to the other processes that take turns."""
    if device == "cuda":
        torch.cuda.empty_cache()


def profile(work: Work, calls: int) -> dict[str, float]:
    """Returns the milliseconds that each operation takes in a call, on a CPU."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(calls):
            work()
    return {
        event.key: event.self_cpu_time_total / 1e3 / calls
        for event in profiler.key_averages()
    }


def describe() -> dict[str, Any]:
    """Says which PyTorch this is and what it runs on."""
    has_gpu = torch.cuda.is_available()
    cpu = f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if has_gpu else cpu,
        "threads": torch.get_num_threads(),
        **find_timm(),
    }


def answer(request: dict[str, Any], works: dict[str, Work]) -> dict[str, Any]:
    """Does what one request asks for; `works` are the jobs prepared so far."""
    match request["request"]:
        case "describe":
            return describe()
        case "prepare":
            work, reply = prepare(request["job"])
            works[request["name"]] = work
            return reply
        case "count":
            return count_model(request["variant"], request["image_size"])
        case "time":
            return measure(works[request["name"]], request["calls"])
        case "profile":
            return profile(works[request["name"]], request["calls"])
    raise ValueError(f"There is no request {request['request']!r}.")


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answers until no more requests come."""
    works: dict[str, Work] = {}
    for line in requests:
        try:
            reply = answer(json.loads(line), works)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _choose(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; use {', '.join(choices)}.")
    return value


def _set_up_torch() -> None:
    """Chooses what is fastest, and lets any number of jobs be compiled."""
    torch.backends.cudnn.benchmark = True
    # After eight models PyTorch would run the next as it is, and say so nowhere.
    torch._dynamo.config.recompile_limit = 1000
    torch._dynamo.config.fail_on_recompile_limit_hit = True


@functools.cache
def _load_libraries(is_compiled: bool) -> None:
    """Loads what jobs share, so that its memory does not count as the first one's."""
    layers = [torch.nn.Conv2d(8, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 8)]
    model = torch.nn.Sequential(*layers, torch.nn.GELU())
    function = torch.compile(model) if is_compiled else model
    function(torch.zeros(4, 8, 3, 3)).sum().backward()


def main() -> None:
    """Serves stdin; whatever else prints goes to stderr, not between the replies."""
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        _set_up_torch()
        with contextlib.suppress(KeyboardInterrupt):
            serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
