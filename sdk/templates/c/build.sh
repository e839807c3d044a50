#!/bin/sh
# Makes weather.wasm, or the file that COMPONENT names: whole, or not at all. CC is a C compiler for WebAssembly; the C library and the
# linker are those of Rust's target wasm32-wasip2.
set -eu
: "${CC:=python3 -m ziglang cc -target wasm32-wasi}"
library=$(rustc --print target-libdir --target wasm32-wasip2)
programs=$(dirname "$(rustc --print target-libdir)")/bin

mkdir -p target
$CC -Os -Wall -Wextra -Werror -c tool.c -o target/tool.o
"$programs/wasm-component-ld" --wasm-ld-path "$programs/gcc-ld/wasm-ld" --component-type wit \
  --entry _initialize --gc-sections --strip-all -o target/weather.wasm \
  "$library/self-contained/crt1-reactor.o" target/tool.o "$library/self-contained/libc.a" "$library"/libcompiler_builtins-*.rlib
mv target/weather.wasm "${COMPONENT:-weather.wasm}"
