#!/bin/sh
# Make a virtual environment that holds bitsandbytes, blosc2, torchao and zipnn beside the torch of the Python
# that runs this.
#
#   sh benchmarks/checkpoint/peers_env.sh [target folder] [python]
set -eu
target=${1:-$HOME/.cache/trafficzip/peers}
python=${2:-python3}
$python -c "import torch, numpy, safetensors" # shared with the new environment through a .pth file
$python -m venv "$target"
site=$("$target/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
$python -c "import sysconfig; print(sysconfig.get_path('purelib'))" >"$site/shared.pth"
# without dependencies, as theirs would bring another torch
"$target/bin/python" -m pip install --quiet --no-deps "setuptools>=77,<90" wheel bitsandbytes==0.50.2 torchao==0.18.0
"$target/bin/python" -m pip install --quiet --no-deps --no-build-isolation zipnn==0.5.4
"$target/bin/python" -m pip install --quiet blosc2==4.14.1
echo "bitsandbytes, blosc2, torchao and zipnn are ready in $target"
