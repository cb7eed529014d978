"""Pickles that are made to harm who reads them, each in its own way.

Each is in an archive that has the storages "0" of six floats and "2" of 100,000. They
are judged as damaged files are.
"""

from tests.convert.pickles import (
    call,
    name,
    one,
    plain,
    state_dict,
    storage,
    tensor,
    text,
)

MILLION = 10**6
# A tuple of itself, forty times over: 2^40 parts for who goes through them.
DOUBLING = b")" + b"q\x01h\x01\x86" * 40
SYSTEM = name("os.system")
CONFIG = name("yacs.config.CfgNode")
LIST_OF_100_000 = b"(" + b"N" * 10**5 + b"l"


def of(value: bytes) -> bytes:
    """Returns the pickle of a state dict with this tensor."""
    return state_dict((text("a"), value))


def key(value: bytes) -> bytes:
    """Returns the pickle of a state dict with this key beside the tensor."""
    return state_dict((text("a"), tensor()), (value, b"N"))


def several(*values: bytes) -> bytes:
    """Returns what pushes a list of values, from what pushes each."""
    return b"(" + b"".join(values) + b"l"


# A tensor or what it lies in is rewritten after it was made.
REWRITTEN = {
    "tensor": of(tensor() + b"}" + text("shape") + plain((1024,)) + b"sb"),
    "tensor's slots": of(tensor() + b"N}" + text("shape") + plain((9,)) + b"s\x86b"),
    "storage": of(
        tensor(lies_in=storage() + b"}" + text("size") + plain(4096) + b"sb")
    ),
    "items of a tensor": of(tensor() + plain(1) + plain((1024,)) + b"s"),
    "appended to a tensor": of(tensor() + plain(1024) + b"a"),
    "shape that grows": of(
        tensor(b"](" + plain(2) + plain(3) + b"eq\x05") + b"h\x05" + plain(999) + b"a0"
    ),
    "type of numbers": of(
        tensor(lies_in=storage(name("torch.FloatStorage") + b"}" + text("itemsize")
        + plain(1) + b"sb"))
    ),
    "defaults of a function": one(
        name("torch._utils._rebuild_tensor_v2")
        + b"}" + text("__defaults__") + plain((1, 2)) + b"sb"
    ),
    "code of a class": one(name("torch.nn.Linear") + b"}" + text("x") + b"Nsb"),
}  # fmt: skip

# Views of more than there is.
VIEWS = {
    "too many rows": of(tensor((3, 3))),
    "offset": of(tensor(offset=1)),
    "offset far beyond": of(tensor((1,), (1,), offset=2**62)),
    "negative offset": of(tensor(offset=-1)),
    "negative stride": of(tensor((2, 3), (-3, 1), offset=3)),
    "stride 0 of 2^24": of(tensor((2**24,), (0,))),
    "stride 0 of 2^40": of(tensor((2**40,), (0,))),
    "stride 0 along two sides": of(tensor((2**20, 2**20), (0, 0))),
    "sides whose product overflows": of(tensor((2**32, 2**32), (0, 0))),
    "sides whose product is 0 after overflow": of(tensor((2**63, 2), (1, 1))),
    "steps whose sum overflows": of(tensor((2, 2), (2**63, 2**63))),
    "step whose bytes overflow": of(tensor((2,), (2**61,))),
    "empty and enormous": of(tensor((0, 2**62), (1, 1))),
    "empty and more": of(tensor((0, 2**63), (1, 1))),
    "70 sides": of(tensor((1,) * 70, (1,) * 70)),
    "a side that is no number": of(tensor((2.0, 3))),
    "a side that is true": of(tensor((True, 3))),
    "a side that is text": of(tensor(("2", 3))),
    "a side of ten thousand digits": of(tensor((1 << 4000, 3))),
    "no sides": of(tensor(None, None)),
    "more strides than sides": of(tensor((2, 3), (3, 1, 1))),
    "shape in a list": of(tensor([2, 3])),
    "shape that doubles": of(tensor(DOUBLING)),
    "shape of 100,000 sides": of(tensor(b"(" + b"K\1" * 10**5 + b"t", (1,))),
    "storage too long": of(tensor((7,), (1,), lies_in=storage(size=plain(7)))),
    "storage of negative length": of(tensor(lies_in=storage(size=plain(-6)))),
    "storage of 2^62": of(tensor((2**62,), (1,), lies_in=storage(size=plain(2**62)))),
    "wider numbers": of(
        tensor((6,), (1,), lies_in=storage(name("torch.DoubleStorage")))
    ),
    "narrower numbers": of(
        tensor((25,), (1,), lies_in=storage(name("torch.ByteStorage"), size=plain(24)))
    ),
    "half numbers": of(
        tensor((13,), (1,), lies_in=storage(name("torch.HalfStorage"), size=plain(12)))
    ),
    "quantized": of(tensor(lies_in=storage(name("torch.QInt8Storage")))),
    "complex": of(tensor(lies_in=storage(name("torch.ComplexFloatStorage")))),
    "untyped": of(tensor(lies_in=storage(name("torch.UntypedStorage")))),
    "another FloatStorage": of(tensor(lies_in=storage(name("evil.FloatStorage")))),
    "sparse": of(call(name("torch._utils._rebuild_sparse_tensor"), tensor())),
    "conjugate": of(tensor(more=b"}" + text("conj") + b"\x88s")),
    "storage within a storage": of(tensor(lies_in=storage(key=storage()))),
    "storage that is text": of(tensor(lies_in=text("storage"))),
    "storage without a length": of(tensor(lies_in=b"(" + text("storage") + b"tQ")),
    "storage that doubles": of(tensor(lies_in=DOUBLING + b"Q")),
    "key that is a number": of(tensor(lies_in=storage(key=plain(0)))),
    "key that leads elsewhere": of(tensor(lies_in=storage(key=text("../data.pkl")))),
    "key with escapes": of(tensor(lies_in=storage(key=text("\x1b[2J\x07")))),
    "storage by text": b"\x80\x02}" + text("a") + b"P0\ns.",
    "many views of one": state_dict(
        *[
            (
                text(f"a{i}"),
                tensor(
                    (90_000,),
                    (1,),
                    offset=i,
                    lies_in=storage(key=text("2"), size=plain(100_000)),
                ),
            )
            for i in range(10)
        ]
    ),
}

# Time and memory.
BOMBS = {
    "nested tuple as a key": key(b")" + b"\x85" * MILLION),
    "doubling tuple as a key": key(DOUBLING),
    "doubling tuple as a name": b"\x80\x02}" + DOUBLING + tensor() + b"s.",
    "numbers of one hash": b"\x80\x02}("
    + text("a") + tensor()
    + b"".join(plain(i * (2**61 - 1)) + tensor() for i in range(5000)) + b"u.",
    "place 2^27 of the memo": one(b"Nr\x00\x00\x00\x08"),
    "place 2^31 of the memo": one(b"Nr\xff\xff\xff\x7f"),
    "place 10^900 of the memo": one(b"Np" + b"9" * 900 + b"\n"),
    "nested marks": one(b"(" * MILLION),
    "nested lists": one(b"]" * MILLION + b"a" * MILLION),
    "a million lists": one(several(b"]" * MILLION)),
    "a million memos": b"\x80\x04(" + b"]\x94" * MILLION + b"l.",
    "a million names": one(several(b"ca\nb\n" * MILLION)),
    "a million calls": one(
        several(CONFIG + b"q\x01)q\x02" + b"h\x01h\x02R" * MILLION)
    ),
    "100,000 nested unknown classes": one((CONFIG + b"(") * 10**5 + b"tR" * 10**5),
    "growing names": one(
        name("__builtin__.getattr") + b"q\x020" + name("a.B")
        + (b"q\x03h\x02h\x03" + text("C") + b"\x86R") * 100_000
    ),
    "long texts of few letters": one(several(text("a" * 900 + "\U0001f600") * 30_000)),
    "a number of a million digits": one(b"I" + b"9" * MILLION + b"\n"),
    "100,000 names of one tensor": b"\x80\x02}(" + text("a") + tensor() + b"q\x01"
    + b"".join(text(f"a{i}") + b"h\x01" for i in range(100_000)) + b"u.",
    "state dicts within state dicts": b"\x80\x02}q\x01" + text("a") + tensor() + b"s"
    + b"".join(text(f"b{i}") + b"h\x01s" for i in range(2000)) + b".",
}  # fmt: skip

# The same, of what is passed over quickly: the weights beside it are read.
PASSED_OVER = {
    "nested tuple": one(b")" + b"\x85" * 300_000),
    "nested dictionaries": one((b"}" + text("a")) * 100_000 + b"N" + b"s" * 100_000),
    "nested calls": one((CONFIG + b"(") * 10_000 + b"tR" * 10_000),
    "tuples of a long list": one(
        several(
            LIST_OF_100_000 + b"q\x01" + name("__builtin__.tuple") + b"q\x02",
            b"h\x02h\x01\x85R" * 50_000,
        )
    ),
    "long arguments": one(
        several(
            b"(" + b"N" * 10**5 + b"tq\x01" + CONFIG + b"q\x02",
            b"h\x02h\x01R" * 60_000,
        )
    ),
    "dictionaries of a long one": one(
        several(
            b"}(" + b"".join(text(f"{i}") + b"N" for i in range(50_000)) + b"uq\x01",
            name("collections.OrderedDict") + b"q\x02" + b"h\x02h\x01\x85R" * 50_000,
        )
    ),
    "encoded a million letters": one(
        several(
            text("a" * MILLION) + b"q\x01" + name("_codecs.encode") + b"q\x02",
            (b"h\x02h\x01" + text("latin1") + b"\x86R") * 50_000,
        )
    ),
    "a long number": one(b"\x8b" + MILLION.to_bytes(4, "little") + b"\1" * MILLION),
    "a long text": one(text(b"\xff" * 20 * MILLION)),
    "doubling tuple": one(DOUBLING),
    "100 state dicts of one prefix": b"\x80\x02}(" + b"".join(
        text("m." * 400 + f"{i}") + tensor() for i in range(100)
    ) + b"u.",
    "a dictionary's methods": of(tensor())[:-1]
    + b"}" + text("items") + name("__builtin__.list") + b"sb.",
    "a tensor's attributes": of(
        call(
            name("torch._tensor._rebuild_from_type_v2"),
            name("torch._utils._rebuild_tensor_v2"),
            name("torch.Tensor"),
            tensor()[len(name("torch._utils._rebuild_tensor_v2")) : -1],
            b"}" + text("shape") + plain((1024,)) + b"s",
        )
    ),
    "a step that means nothing": of(tensor((1, 6), (2**70, 1))),
}  # fmt: skip

# Not what a pickle of PyTorch's is.
MALFORMED = {
    "nothing": b"",
    "an end": b".",
    "no end": of(tensor())[:-1],
    "two pickles": of(tensor()) * 2,
    "a pickle and bytes": of(tensor()) + b"\0",
    "protocol 200": b"\x80\xc8" + of(tensor())[2:],
    "a text too long": one(b"X\xff\xff\xff\x7fabc"),
    "a text of 2^63": one(b"\x8d" + b"\xff" * 7 + b"\x7f" + b"abc"),
    "bytes of 2^63": one(b"\x8e" + b"\xff" * 8),
    "a frame of 2^63": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f" + of(tensor())[2:],
    "a place without anything": one(b"h\x77"),
    "an extension": one(b"\x82\x01"),
    "a buffer": one(b"\x97"),
    "text that is no UTF-8": one(text(b"\xff\xfe")),
    "a number that is none": one(b"Iabc\n"),
    "a key without a value": b"\x80\x02}(" + text("a") + b"u.",
    "a value for a number": b"\x80\x02" + plain(1) + text("a") + b"Ns.",
    "a name that is a number": b"\x80\x04" + plain(1) + plain(2) + b"\x93.",
    "a parameter of nothing": one(call(name("torch._utils._rebuild_parameter")))
    .replace(b"other", b"model"),
    "a tensor of nothing": one(call(name("torch._utils._rebuild_tensor_v2"))),
    "an item of a name": one(SYSTEM + plain(1) + b"Ns"),
}  # fmt: skip

# Calls of code.
UNSAFE = {
    "system": one(call(SYSTEM, text("touch HACKED"))),
    "as an object": one(SYSTEM + b"(" + text("touch HACKED") + b"t\x81"),
    "as an instance": one(b"(" + text("touch HACKED") + b"ios\nsystem\n"),
    "as an old object": one(b"(" + SYSTEM + text("touch HACKED") + b"o"),
    "by its parts": one(
        b"\x8c\x02os\x8c\x06system\x93" + b"(" + text("touch HACKED") + b"tR"
    ),
    "by another module": one(b"clogging\nos.system\n(" + text("touch HACKED") + b"tR"),
    "of a third one": one(b"cnumpy\nos.system\n(" + text("touch HACKED") + b"tR"),
    "a class of a third one": one(b"ctorch\nsubprocess.Popen\n(" + text("ls") + b"tR"),
    "by reduce": one(
        call(name("functools.reduce"), SYSTEM, b"](" + text("touch HACKED") + b"e")
    ),
    "by map": one(call(name("__builtin__.map"), SYSTEM, b"](" + text("ls") + b"e")),
    "by partial": one(call(name("functools.partial"), SYSTEM, text("ls")) + b")R"),
    "by a default": one(call(name("collections.defaultdict"), SYSTEM)),
    "by getattr": one(
        call(call(name("__builtin__.getattr"), SYSTEM, text("__call__")), text("ls"))
    ),
    "by getattr of a class": one(
        call(call(name("__builtin__.getattr"), name("torch.Tensor"), text("x")), b"N")
    ),
    "by a function made up": one(call(call(CONFIG), text("ls"))),
    "by copyreg": one(call(name("copy_reg._reconstructor"), SYSTEM, CONFIG, b"N")),
    "by typing": one(call(name("_operator.getitem"), SYSTEM, text("ls"))),
    "eval": one(call(name("__builtin__.eval"), text("1"))),
    "a loader": one(call(name("torch.hub.load"), text("x"))),
    "a file": one(call(name("__builtin__.open"), text("x"), text("w"))),
    "another pickle": one(call(name("pickle.loads"), text("x"))),
    "escapes": one(call(b"cos\n\x1b[2J\n", text("x"))),
    "in the model": of(call(SYSTEM, text("touch HACKED"))),
}
