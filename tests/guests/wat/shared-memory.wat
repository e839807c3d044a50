;; A component that would sleep on a lock in shared memory, holding a thread of the host for ever.
(component
  (core module $m
    (memory 1 1 shared)
    (func (export "wait") (result i32)
      (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))))
  (core instance $i (instantiate $m))
  (func (export "wait") (result u32) (canon lift (core func $i "wait"))))
