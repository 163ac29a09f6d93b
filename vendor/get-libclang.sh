#!/usr/bin/env bash
# Makes sure that bindgen finds a libclang: the one LIBCLANG_PATH names, the system's, or one fetched into .tools/py.
set -euo pipefail
cd "$(dirname "$0")/.."

version=18.1.1
fetched=.tools/py/clang/native

# bindgen loads the C library only; libclang-cpp, which matches the same patterns, is of no use to it.
holds_libclang() {
  local file
  for file in "$1"/libclang.so* "$1"/libclang-[0-9]*.so* "$1"/libclang.dylib; do
    [[ -e $file ]] && return 0
  done
  return 1
}

system_libclang() {
  local dir
  for dir in "$(llvm-config --libdir 2>/dev/null || true)" /usr/lib* /usr/lib*/* /usr/lib/llvm*/lib* /usr/local/lib* \
    /usr/local/llvm*/lib* /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib \
    /Library/Developer/CommandLineTools/usr/lib; do
    [[ -n $dir ]] && holds_libclang "$dir" && echo "$dir" && return 0
  done
  return 1
}

if [[ -n ${LIBCLANG_PATH:-} ]]; then
  echo "==> libclang: LIBCLANG_PATH=$LIBCLANG_PATH"
elif holds_libclang "$fetched"; then
  echo "==> libclang: $fetched"
elif dir=$(system_libclang); then
  echo "==> libclang: $dir"
else
  echo "==> libclang: none on this system; fetching the Python package libclang $version into .tools/py (25 MB)"
  mkdir -p .tools
  # Into a side folder first: an interrupted download must not look like a finished one.
  part=$(mktemp -d .tools/py.part.XXXXXX)
  trap 'rm -rf "$part"' EXIT
  if ! PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$part" "libclang==$version"; then
    echo "error: pip could not fetch \`libclang==$version\`" >&2
    echo "hint: install the system's package (\`apt-get install libclang-dev\`, \`dnf install clang-devel\`," \
      "\`brew install llvm\`), or point LIBCLANG_PATH at the folder that holds libclang" >&2
    exit 1
  fi
  rm -rf .tools/py
  mv "$part" .tools/py
  trap - EXIT
fi
