;; A component that returns as much as it is told to.
(component
  (core module $m
    (memory (export "memory") 160)
    (func (export "give") (param $n i32) (result i32)
      (i32.store (i32.const 16) (i32.const 1024))
      (i32.store (i32.const 20) (local.get $n))
      (memory.fill (i32.const 1024) (i32.const 97) (local.get $n))
      (i32.const 16)))
  (core instance $i (instantiate $m))
  (func (export "give-text") (param "n" u32) (result string)
    (canon lift (core func $i "give") (memory (core memory $i "memory")))))
