#!/bin/sh
# The tool as a native program. HOST_CC is a C compiler for this machine.
set -eu
: "${HOST_CC:=cc}"
command -v "$HOST_CC" > /dev/null || HOST_CC="python3 -m ziglang cc"

mkdir -p target
$HOST_CC test_tool.c -o target/test_tool
target/test_tool
