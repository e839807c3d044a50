#!/bin/sh
# Makes weather.wasm, or the file that COMPONENT names, of `tool.py` and what it imports: the interpreter with the program already
# loaded, so that a call begins where the program is. Whole, or not at all.
set -eu
mkdir -p target
componentize-py --wit-path wit --world component componentize tool --output target/weather.wasm
mv target/weather.wasm "${COMPONENT:-weather.wasm}"
