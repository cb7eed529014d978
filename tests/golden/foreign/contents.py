"""With a Python that has PyTorch: writes contents_p2.pth and contents_p5.pth, all that
training codes save beside weights. argv: the folder to write to."""

import argparse, array, collections, datetime, decimal, enum, fractions, functools, io
import logging, pathlib, random, re, signal, sys, types, uuid, zoneinfo

import numpy as np
import torch


class Mode(enum.Enum):
    FAST = 1


class Config(dict):
    pass


class Meter:
    def __init__(self):
        self.history = np.ones(3)
        self.methods = {"mean": Meter.mean}

    def mean(self):
        pass


Point = collections.namedtuple("Point", "x y")
base = torch.arange(24.0).reshape(4, 6)


def tagged(tensor):
    tensor.tag = "attribute"
    return tensor


state_dict = collections.OrderedDict(
    view=base[1:3, ::2],
    transposed=base.T,
    expanded=torch.ones(1).expand(3),
    tied=base,
    parameter=torch.nn.Parameter(base + 1),
    tagged_parameter=tagged(torch.nn.Parameter(base + 2)),
    tagged=tagged(base + 3),
    buffer=torch.nn.Buffer(base + 4),
    bfloat16=base.bfloat16(),
    half=base.half(),
    bool=torch.tensor([True, False]),
    count=torch.tensor(7),
    empty=torch.empty(0, 3),
)
state_dict._metadata = collections.OrderedDict({"": {"version": 1}})

network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
optimizer = torch.optim.AdamW(network.parameters())
network(torch.ones(2, 3)).sum().backward()
optimizer.step()
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
utc = datetime.timezone.utc
contents = {
    "state_dict": state_dict,
    "optimizer": optimizer.state_dict(),
    "lr_scheduler": schedule.state_dict(),
    "scaler": torch.amp.GradScaler("cpu").state_dict(),
    "args": argparse.Namespace(lr=1e-3, output=pathlib.Path("/runs/1"), x=None),
    "config": Config(MODEL=Config(LIT=Config(EMBED_DIM=96))),
    "times": [
        datetime.datetime(2025, 1, 1, tzinfo=utc),
        datetime.datetime(2025, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        datetime.timedelta(1),
        datetime.date(2025, 1, 1),
        datetime.time(1),
    ],
    "collections": [
        collections.deque([1], maxlen=3),
        collections.Counter("aab"),
        collections.defaultdict(list, {1: [2]}),
        collections.defaultdict(int, {"a": 1}),
        collections.ChainMap({"a": 1}),
        collections.UserDict(a=1),
        Point(1, 2),
    ],
    "values": [decimal.Decimal("1.5"), fractions.Fraction(1, 3), uuid.UUID(int=1)]
    + [re.compile("a.b", re.I), 2**70, 1 + 2j, b"bytes", bytearray(b"x"), {1, 2}]
    + [frozenset([1]), slice(1, 2), range(3), ..., NotImplemented, float("nan")],
    "objects": [Mode.FAST, Meter(), types.SimpleNamespace(a=1), signal.SIGTERM],
    "functions": [functools.partial(torch.nn.functional.relu, inplace=True)]
    + [torch.nn.functional.gelu, torch.nn.Linear, int, len, print, Meter.mean],
    "numpy": [np.float64(1), np.float32(2), np.int64(3), np.bool_(True), np.arange(5)]
    + [np.array(["a"]), np.array([{}], dtype=object), np.dtype("f4")]
    + [np.random.RandomState(0), np.random.default_rng(0), np.datetime64("2020-01-01")]
    + [np.array([1], ">f4"), np.ma.masked_array([1, 2], [0, 1])]
    + [np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")])],
    "torch": [torch.device("cuda:0"), torch.float16, torch.Size([1, 2]), torch.strided]
    + [torch.get_rng_state(), torch.per_tensor_affine],
    "other tensors": [torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex64)]
    + [torch.ones(2, dtype=torch.complex64).conj(), torch.ones(2).to(torch.uint16)]
    + [torch.ones(2, device="meta"), torch.ones(2).to(torch.float8_e4m3fn)],
    "python": [random.getstate(), random.Random(1), logging.getLogger("x")]
    + [array.array("d", [1.0]), io.BytesIO(b"x"), "long" * 1000],
    "network": network,
    "losses": [0.1] * 3000,
}
for protocol in (2, 5):
    file = f"{sys.argv[1]}/contents_p{protocol}.pth"
    torch.save(contents, file, pickle_protocol=protocol)
