#!/bin/sh
# Make a virtual environment that holds NNCodec 2.1.3 beside the torch and numpy of the Python that runs this.
#
#   sh benchmarks/checkpoint/nncodec_env.sh <target folder> [python]
#
# A plain `pip install nncodec` would replace torch by a CUDA build and numpy by numpy 1, so its dependencies are not
# installed; what the package imports without ever calling it for dictionaries of tensors becomes an empty stub.
# Needs pip and a C++ compiler; builds for about 90 s.
set -eu
target=$1
python=${2:-python3}
$python -c "import torch, numpy, safetensors, sklearn" # shared with the new environment through a .pth file
$python -m venv "$target"
site=$("$target/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
$python -c "import sysconfig; print(sysconfig.get_path('purelib'))" >"$site/shared.pth"
"$target/bin/python" -m pip install --quiet --no-deps "setuptools>=77,<90" wheel pybind11 h5py pandas python-dateutil tqdm
for module in torchvision cv2 torchmetrics ptflops; do
    mkdir -p "$site/$module"
    cat >"$site/$module/__init__.py" <<'STUB'
"""A stub: any name imports, nothing works."""

import sys
from types import ModuleType


class _Stub(ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        stub = _Stub(f"{self.__name__}.{name}")
        sys.modules[stub.__name__] = stub
        setattr(self, name, stub)
        return stub

    def __call__(self, *args, **kwargs):
        return self

    def __mro_entries__(self, bases):
        return (object,)


sys.modules[__name__].__class__ = _Stub
STUB
done
"$target/bin/python" -m pip install --no-deps --no-build-isolation --no-binary nncodec "nncodec==2.1.3"
"$target/bin/python" -c "from nncodec import nn; print('NNCodec is ready in $target')"
