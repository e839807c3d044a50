#!/bin/sh
# Makes weather.wasm of `tool.py` and what it imports: the interpreter with the program already loaded, so that a call
# begins where the program is.
set -eu
exec componentize-py --wit-path wit --world component componentize tool --output weather.wasm
