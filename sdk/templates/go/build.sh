#!/bin/sh
# Makes weather.wasm, or the file that COMPONENT names: a module for WASI 0.1, which Go knows, and what makes it a component
# (`wasip1.wat`). Whole, or not at all.
set -eu
mkdir -p target
GOOS=wasip1 GOARCH=wasm go build -trimpath -buildmode=c-shared -ldflags='-s -w' -o target/module.wasm .
wasm-tools component embed --world component wit target/module.wasm --output target/module.wasm
wasm-tools component embed --world wasip1 wit wasip1.wat --output target/wasip1.wasm
wasm-tools component new target/module.wasm --adapt wasi_snapshot_preview1=target/wasip1.wasm --output target/weather.wasm
mv target/weather.wasm "${COMPONENT:-weather.wasm}"
