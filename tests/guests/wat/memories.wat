;; A component that spreads what it takes over the memories of several instances, each of which is small.
(component
  (core module $store
    (memory 1)
    (func (export "grow") (result i32) (memory.grow (i32.const 1)))
    (func (export "size") (result i32) (memory.size)))
  (core module $m
    (import "a" "grow" (func $grow-a (result i32))) (import "a" "size" (func $size-a (result i32)))
    (import "b" "grow" (func $grow-b (result i32))) (import "b" "size" (func $size-b (result i32)))
    (import "c" "grow" (func $grow-c (result i32))) (import "c" "size" (func $size-c (result i32)))
    ;; Grows each in turn by 64 KiB until one is refused, and says how many pages they have.
    (func (export "grow") (result i32)
      (block $done
        (loop $more
          (br_if $done (i32.eq (call $grow-a) (i32.const -1)))
          (br_if $done (i32.eq (call $grow-b) (i32.const -1)))
          (br_if $done (i32.eq (call $grow-c) (i32.const -1)))
          (br $more)))
      (i32.add (i32.add (call $size-a) (call $size-b)) (call $size-c))))
  (core instance $a (instantiate $store))
  (core instance $b (instantiate $store))
  (core instance $c (instantiate $store))
  (core instance $i (instantiate $m (with "a" (instance $a)) (with "b" (instance $b)) (with "c" (instance $c))))
  (func (export "grow-memories") (result u32) (canon lift (core func $i "grow"))))
