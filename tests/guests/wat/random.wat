;; A component that has the host make random bytes: many at once, or a megabyte again and again.
(component
  (import "wasi:random/random@0.2.0" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  (core module $libc
    (memory (export "memory") 33)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $libc (instantiate $libc))
  (core func $bytes (canon lower (func $random "get-random-bytes")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core module $m
    (import "libc" "memory" (memory 1))
    (import "host" "bytes" (func $bytes (param i64 i32)))
    (func $get (export "get") (param $n i64) (result i32)
      (call $bytes (local.get $n) (i32.const 16))
      (i32.load (i32.const 20)))
    (func (export "work") (param $n i32) (result i32)
      (local $i i32)
      (block $done
        (loop $more
          (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
          (drop (call $get (i64.const 1048576)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $more)))
      (local.get $i)))
  (core instance $i (instantiate $m
    (with "libc" (instance $libc)) (with "host" (instance (export "bytes" (func $bytes))))))
  (func (export "random-bytes") (param "n" u64) (result u32) (canon lift (core func $i "get")))
  (func (export "random-megabytes") (param "n" u32) (result u32) (canon lift (core func $i "work"))))
