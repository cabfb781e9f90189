"""Files as torch.save writes them, written by hand, so that no PyTorch is needed."""

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np


class Global:
    """Pickles as a reference to a global of another module, called with arguments where there are any."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Storage:
    def __init__(self, key, kind, count):
        self.pid = ("storage", Global("torch", kind), key, "cpu", count)


class TorchPickler(pickle._Pickler):
    """Writes references to globals that need not exist here."""

    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Global):
            self.write(f"c{value.module}\n{value.name}\n".encode())
            if value.arguments:
                super().save(value.arguments)
                self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


def tensor(key, kind, size, stride, offset=0, stored=None):
    """How a tensor over a storage is written."""
    stored = int(np.prod(size)) if stored is None else stored
    arguments = (Storage(key, kind, stored), offset, size, stride, False, OrderedDict())
    return Global("torch._utils", "_rebuild_tensor_v2", *arguments)


def write_torch(path, structure, storages, compression=zipfile.ZIP_STORED, order=b"little"):
    """A file of `structure`, or of these bytes as its pickle, with arrays as storages; returns its path."""
    file = io.BytesIO()
    if isinstance(structure, bytes):
        file.write(structure)
    else:
        TorchPickler(file, protocol=2).dump(structure)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        archive.writestr("archive/byteorder", order)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path
