;; A component that starts timers and keeps them; and one that waits for the same one many times over.
(component
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $outer))
    (export "pollable" (type $inner (eq $outer)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $inner))))))
  ;; What the host hands out is not kept: one place is enough.
  (core module $libc
    (memory (export "memory") 256)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8388608)))
  (core instance $libc (instantiate $libc))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core func $wait (canon lower (func $poll "poll")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core module $m
    (import "libc" "memory" (memory 1))
    (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
    (import "host" "poll" (func $poll (param i32 i32 i32)))
    (func (export "hold") (param $n i32) (result i32)
      (local $i i32)
      (block $done
        (loop $more
          (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
          (drop (call $subscribe (i64.const 3600000000000)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $more)))
      (local.get $i))
    (func (export "poll") (param $n i32) (result i32)
      (local $i i32) (local $timer i32)
      (local.set $timer (call $subscribe (i64.const 0)))
      (block $done
        (loop $more
          (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
          (i32.store (i32.add (i32.const 64) (i32.mul (local.get $i) (i32.const 4))) (local.get $timer))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $more)))
      (call $poll (i32.const 64) (local.get $n) (i32.const 8))
      (i32.load (i32.const 12))))
  (core instance $i (instantiate $m
    (with "libc" (instance $libc))
    (with "host" (instance (export "subscribe" (func $subscribe)) (export "poll" (func $wait))))))
  (func (export "hold-timers") (param "n" u32) (result u32) (canon lift (core func $i "hold")))
  (func (export "poll-many") (param "n" u32) (result u32) (canon lift (core func $i "poll"))))
