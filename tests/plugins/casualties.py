"""Methods that fail in every way a process can."""

import ctypes
import os
import signal
import sys
from dataclasses import dataclass

import numpy as np

from packbench import Codec, register
from packbench.items import as_vectors


class Half(Codec):
    def encode(self, items, shared):
        return {"codes": as_vectors(items).astype(np.float16)}

    def decode(self, codes, shared):
        return codes["codes"].astype(np.float32)


@register
@dataclass(frozen=True)
class Raises(Half):
    name = "raises"

    def fit(self, sample):
        raise RuntimeError("the training diverged")


@register
@dataclass(frozen=True)
class Loops(Half):
    name = "loops"

    def encode(self, items, shared):
        while True:
            pass


@register
@dataclass(frozen=True)
class AllocatesAtOnce(Half):
    name = "allocates_at_once"

    def fit(self, sample):
        return {"table": np.ones(30 << 27)}


@register
@dataclass(frozen=True)
class AllocatesBitByBit(Half):
    name = "allocates_bit_by_bit"

    def fit(self, sample):
        return {"table": [np.ones(1 << 21) for _ in range(1800)]}


@register
@dataclass(frozen=True)
class Segfaults(Half):
    name = "segfaults"

    def open(self, codes, shared, metric):
        ctypes.string_at(0)


@register
@dataclass(frozen=True)
class Prints(Half):
    name = "prints"

    def fit(self, sample):
        sys.stdout.write("x" * (1 << 20))
        os.write(2, b"y" * (1 << 20))
        return {}


@register
@dataclass(frozen=True)
class PrintsForEver(Half):
    name = "prints_for_ever"

    def fit(self, sample):
        while True:
            sys.stdout.write("x" * (1 << 20))


@register
@dataclass(frozen=True)
class Exits(Half):
    name = "exits"

    def encode(self, items, shared):
        os._exit(0)


@register
@dataclass(frozen=True)
class Quits(Half):
    name = "quits"

    def encode(self, items, shared):
        sys.exit("enough")


@register
@dataclass(frozen=True)
class KillsItself(Half):
    name = "kills_itself"

    def fit(self, sample):
        os.kill(os.getpid(), signal.SIGKILL)


@register
@dataclass(frozen=True)
class Aborts(Half):
    name = "aborts"

    def fit(self, sample):
        os.abort()
