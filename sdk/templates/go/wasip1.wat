;; WASI 0.1, as far as Go needs it to run, made of WASI 0.2. The usual adapter takes memory for itself, and Go takes for granted that
;; nobody else does: so this one has none. Where an imported function wants room for a result, it gets the caller's, and what
;; was there is put back.
;;
;; There are clocks, random numbers, sleeping, and printing (to stderr). There are no arguments, variables and files.
(module
  (import "env" "memory" (memory 0))
  (import "wasi:clocks/monotonic-clock@0.2.12" "now" (func $monotonic (result i64)))
  (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration" (func $after (param i64) (result i32)))
  (import "wasi:clocks/wall-clock@0.2.12" "now" (func $wall (param i32)))
  (import "wasi:random/random@0.2.12" "get-random-u64" (func $random (result i64)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.12" "[resource-drop]pollable" (func $drop_pollable (param i32)))
  (import "wasi:cli/stderr@0.2.12" "get-stderr" (func $stderr (result i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush" (func $write (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.12" "[resource-drop]output-stream" (func $drop_stream (param i32)))

  (func (export "sched_yield") (result i32) i32.const 0)
  (func (export "proc_exit") (param i32) unreachable)

  ;; None.
  (func $none (param $count i32) (param $size i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $size) (i32.const 0))
    i32.const 0)
  (export "args_sizes_get" (func $none))
  (export "environ_sizes_get" (func $none))
  (func $nothing (param i32 i32) (result i32) i32.const 0)
  (export "args_get" (func $nothing))
  (export "environ_get" (func $nothing))

  ;; Nanoseconds: of the wall clock (0), else of the monotonic one.
  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $to i32) (result i32)
    (local $behind i64)
    (if (local.get $clock)
      (then (i64.store (local.get $to) (call $monotonic)))
      (else
        (local.set $behind (i64.load offset=8 (local.get $to)))
        (call $wall (local.get $to))
        (i64.store (local.get $to)
          (i64.add
            (i64.mul (i64.load (local.get $to)) (i64.const 1000000000))
            (i64.load32_u offset=8 (local.get $to))))
        (i64.store offset=8 (local.get $to) (local.get $behind))))
    i32.const 0)

  (func (export "random_get") (param $to i32) (param $size i32) (result i32)
    (local $bits i64)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $size)))
        (if (i64.eqz (local.get $bits)) (then (local.set $bits (call $random))))
        (i32.store8 (local.get $to) (i32.wrap_i64 (local.get $bits)))
        (local.set $bits (i64.const 0))
        (local.set $to (i32.add (local.get $to) (i32.const 1)))
        (local.set $size (i32.sub (local.get $size) (i32.const 1)))
        (br $next)))
    i32.const 0)

  ;; To stderr, whatever the descriptor, at most 4096 bytes of the first piece: the caller goes on with the rest.
  (func (export "fd_write") (param $fd i32) (param $pieces i32) (param $count i32) (param $written i32) (result i32)
    (local $stream i32) (local $size i32) (local $behind i64)
    (if (i32.eqz (local.get $count)) (then (i32.store (local.get $written) (i32.const 0)) (return (i32.const 0))))
    (local.set $size (i32.load offset=4 (local.get $pieces)))
    (if (i32.gt_u (local.get $size) (i32.const 4096)) (then (local.set $size (i32.const 4096))))
    (local.set $stream (call $stderr))
    (local.set $behind (i64.load offset=4 (local.get $written)))
    (call $write (local.get $stream) (i32.load (local.get $pieces)) (local.get $size) (local.get $written))
    (i64.store offset=4 (local.get $written) (local.get $behind))
    (call $drop_stream (local.get $stream))
    (i32.store (local.get $written) (local.get $size))
    i32.const 0)

  ;; Waits for the first of the clocks that are asked for; a descriptor never becomes ready.
  (func (export "poll_oneoff") (param $asked i32) (param $events i32) (param $count i32) (param $ready i32) (result i32)
    (local $pollable i32)
    (block $found
      (loop $next
        (if (i32.eqz (local.get $count)) (then (return (i32.const 52))))
        (br_if $found (i32.eqz (i32.load8_u offset=8 (local.get $asked))))
        (local.set $asked (i32.add (local.get $asked) (i32.const 48)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (local.set $pollable (call $after (i64.load offset=24 (local.get $asked))))
    (call $block (local.get $pollable))
    (call $drop_pollable (local.get $pollable))
    (i64.store (local.get $events) (i64.load (local.get $asked)))
    (i64.store offset=8 (local.get $events) (i64.const 0))
    (i32.store (local.get $ready) (i32.const 1))
    i32.const 0)

  ;; There is no such descriptor.
  (func (export "fd_close") (param i32) (result i32) i32.const 8)
  (func (export "fd_read") (param i32 i32 i32 i32) (result i32) i32.const 8)
  (func (export "fd_fdstat_get") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_fdstat_set_flags") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_prestat_get") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) i32.const 8)
)
