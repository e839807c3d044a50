;; A component that opens its bucket of key-values again and again.
(component
  (import "wasi:keyvalue/store@0.2.0-draft" (instance $store
    (export "bucket" (type $bucket (sub resource)))
    (type $why (variant (case "no-such-store") (case "access-denied") (case "other" string)))
    (export "error" (type $error (eq $why)))
    (export "open" (func (param "identifier" string) (result (result (own $bucket) (error $error)))))))
  (core module $libc
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $libc (instantiate $libc))
  (core func $open (canon lower (func $store "open")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core module $m
    (import "libc" "memory" (memory 1))
    (import "host" "open" (func $open (param i32 i32 i32)))
    ;; Says how many it got.
    (func (export "hold") (param $n i32) (result i32)
      (local $i i32)
      (block $done
        (loop $more
          (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
          (call $open (i32.const 0) (i32.const 0) (i32.const 16))
          (br_if $done (i32.load8_u (i32.const 16)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $more)))
      (local.get $i)))
  (core instance $i (instantiate $m
    (with "libc" (instance $libc)) (with "host" (instance (export "open" (func $open))))))
  (func (export "hold-buckets") (param "n" u32) (result u32) (canon lift (core func $i "hold"))))
