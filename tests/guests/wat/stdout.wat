;; A component that writes what it is told to its stdout; or has the host write zeroes, which the host makes in its own
;; memory.
(component
  (import "wasi:io/error@0.2.0" (instance $errors (export "error" (type (sub resource)))))
  (alias export $errors "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $error (type $outer))
    (export "error" (type $inner (eq $outer)))
    (type $why (variant (case "last-operation-failed" (own $inner)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $why)))
    (export "output-stream" (type $output (sub resource)))
    (export "[method]output-stream.write"
      (func (param "self" (borrow $output)) (param "contents" (list u8)) (result (result (error $stream-error)))))
    (export "[method]output-stream.write-zeroes"
      (func (param "self" (borrow $output)) (param "len" u64) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output))
  (import "wasi:cli/stdout@0.2.0" (instance $cli
    (alias outer 1 $output (type $outer))
    (export "output-stream" (type $inner (eq $outer)))
    (export "get-stdout" (func (result (own $inner))))))
  (core module $libc
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $libc (instantiate $libc))
  (core func $stdout (canon lower (func $cli "get-stdout")))
  (core func $write (canon lower (func $streams "[method]output-stream.write")
    (memory (core memory $libc "memory"))))
  (core func $zeroes (canon lower (func $streams "[method]output-stream.write-zeroes")
    (memory (core memory $libc "memory"))))
  (core module $m
    (import "libc" "memory" (memory 1))
    (import "host" "stdout" (func $stdout (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "zeroes" (func $zeroes (param i32 i64 i32)))
    (func (export "print") (param $at i32) (param $len i32) (result i32)
      (call $write (call $stdout) (local.get $at) (local.get $len) (i32.const 16))
      (i32.load8_u (i32.const 16)))
    (func (export "zeroes") (param $n i64) (result i32)
      (call $zeroes (call $stdout) (local.get $n) (i32.const 16))
      (i32.load8_u (i32.const 16))))
  (core instance $i (instantiate $m
    (with "libc" (instance $libc))
    (with "host" (instance (export "stdout" (func $stdout)) (export "write" (func $write)) (export "zeroes" (func $zeroes))))))
  (func (export "print-text") (param "text" string) (result u32)
    (canon lift (core func $i "print") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "write-zeroes") (param "n" u64) (result u32) (canon lift (core func $i "zeroes"))))
