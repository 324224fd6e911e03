#!/usr/bin/env bash
# Installs libsluice into a folder of its own and builds programs against it, by CMake and by pkg-config, with both
# compilers; looks at what the shared library exports and needs.   run.sh SOURCE_DIR BUILD_DIR CC CXX
set -euo pipefail
source_dir=$1 build_dir=$2 cc=$3 cxx=$4

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build_dir" --component library --prefix "$work/first" >/dev/null
mv "$work/first" "$work/prefix" # an installed tree may be moved
libdir=$(dirname "$(find "$work/prefix" -name libsluice.so)")

echo "== CMake"
cmake -S "$source_dir" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_CXX_STANDARD=20 \
  -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" >/dev/null
cmake --build "$work/build" >/dev/null
for program in cpp_sluice cpp_sluice_static c_sluice; do "$work/build/$program"; done

echo "== pkg-config"
export PKG_CONFIG_PATH=$libdir/pkgconfig LD_LIBRARY_PATH=$libdir
read -ra flags < <(pkg-config --cflags --libs sluice)
for compiler in g++ clang++-19; do
  command -v "$compiler" >/dev/null || continue
  "$compiler" -std=c++20 -Wall -Wextra -Wconversion -Wshadow -Werror "$source_dir/consumer.cc" -o "$work/cpp" "${flags[@]}"
  "$work/cpp"
done
"$cc" -std=c11 -Wall -Wextra -pedantic -Werror "$source_dir/consumer.c" -o "$work/c" "${flags[@]}"
"$work/c"

echo "== exports and needs"
others=$(nm -DC --defined-only "$libdir/libsluice.so" | cut -d' ' -f3- | grep -vE '^(sluice_|sluice::v1::Port::)' || true)
[[ -z $others ]] || { echo "libsluice.so exports more than its API: $others"; exit 1; }
needs=$(readelf -d "$libdir/libsluice.so" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -vE '^(lib(stdc\+\+|gcc_s|c|m)|ld-linux.*)\.so' || true)
[[ -z $needs ]] || { echo "libsluice.so needs more than the C++ library: $needs"; exit 1; }
# Structures may grow with a minor version before 1.0, so programs must not load another one than they were built for.
version=$(pkg-config --modversion sluice)
soname=$(readelf -d "$libdir/libsluice.so" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
[[ $soname == "libsluice.so.${version%.*}" ]] || { echo "libsluice.so $version is called $soname"; exit 1; }
[[ -z $(find "$work/prefix/include" -type f ! -path '*/sluice/sluice.h' ! -path '*/sluice/sluice.hpp') ]] \
  || { echo "more than the two public headers is installed"; exit 1; }
