#!/usr/bin/env bash
# Makes sure that build.rs finds a CUDA toolkit for the feature `cuda`: the one CUDA_HOME or CUDA_PATH names, the one in
# /usr/local/cuda, or one fetched into .tools/cuda. Neither a GPU nor a driver is needed to build.
set -euo pipefail
cd "$(dirname "$0")/.."

release=13.0
fetched=.tools/cuda/nvidia/cu13

holds_toolkit() {
  [[ -x $1/bin/nvcc ]] && [[ -e $1/include/cublas_v2.h ]]
}

if [[ -n ${CUDA_HOME:-${CUDA_PATH:-}} ]]; then
  echo "==> cuda: ${CUDA_HOME:-$CUDA_PATH}"
elif holds_toolkit "$fetched"; then
  echo "==> cuda: $fetched"
elif holds_toolkit /usr/local/cuda; then
  echo "==> cuda: /usr/local/cuda"
else
  echo "==> cuda: no toolkit on this system; fetching NVIDIA's Python packages of $release into .tools/cuda (1 GB)"
  mkdir -p .tools
  # Into a side folder first: an interrupted download must not look like a finished one.
  part=$(mktemp -d .tools/cuda.part.XXXXXX)
  trap 'rm -rf "$part"' EXIT
  if ! PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$part" \
    "nvidia-cuda-nvcc==$release.*" "nvidia-nvvm==$release.*" "nvidia-cuda-crt==$release.*" \
    "nvidia-cuda-runtime==$release.*" "nvidia-cuda-cccl==$release.*" "nvidia-cublas==$release.*"; then
    echo "error: pip could not fetch the CUDA packages" >&2
    echo "hint: install NVIDIA's toolkit and point CUDA_HOME at it" >&2
    exit 1
  fi
  rm -rf .tools/cuda
  mv "$part" .tools/cuda
  trap - EXIT
fi
