;; A component that says nothing, very often: on a channel, and as progress.
(component
  (import "fumehood:tool/progress@0.1.0" (instance $progress
    (export "report" (func (param "message" string) (param "fraction" (option f32))))
    (export "emit" (func (param "channel" string) (param "chunk" string)))))
  (core module $libc
    (memory (export "memory") 1)
    (data (i32.const 16) "channel"))
  (core instance $libc (instantiate $libc))
  (core func $report (canon lower (func $progress "report") (memory (core memory $libc "memory"))))
  (core func $emit (canon lower (func $progress "emit") (memory (core memory $libc "memory"))))
  (core module $m
    (import "host" "report" (func $report (param i32 i32 i32 f32)))
    (import "host" "emit" (func $emit (param i32 i32 i32 i32)))
    (func (export "emit") (param $n i32) (result i32)
      (local $i i32)
      (block $done
        (loop $more
          (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
          (call $emit (i32.const 16) (i32.const 7) (i32.const 0) (i32.const 0))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $more)))
      (local.get $i))
    (func (export "report") (param $n i32) (result i32)
      (local $i i32)
      (block $done
        (loop $more
          (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
          (call $report (i32.const 16) (i32.const 7) (i32.const 1) (f32.const nan))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $more)))
      (local.get $i)))
  (core instance $i (instantiate $m
    (with "host" (instance (export "report" (func $report)) (export "emit" (func $emit))))))
  (func (export "emit-pieces") (param "n" u32) (result u32) (canon lift (core func $i "emit")))
  (func (export "report-progress") (param "n" u32) (result u32) (canon lift (core func $i "report"))))
