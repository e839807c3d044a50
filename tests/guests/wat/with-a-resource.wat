;; What can be a tool beside what can't: a resource, its constructor, a function that takes it, and one that has nothing to do with it.
(component
  (type $counter' (resource (rep i32)))
  (core func $new (canon resource.new $counter'))
  (core module $m
    (import "host" "new" (func $new (param i32) (result i32)))
    (func (export "make") (result i32) (call $new (i32.const 1)))
    (func (export "count") (param i32) (result i32) (i32.const 2))
    (func (export "answer") (result i32) (i32.const 42)))
  (core instance $i (instantiate $m (with "host" (instance (export "new" (func $new))))))
  (export $counter "counter" (type $counter'))
  (func (export "[constructor]counter") (result (own $counter)) (canon lift (core func $i "make")))
  (func (export "count") (param "of" (borrow $counter)) (result u32) (canon lift (core func $i "count")))
  (func (export "answer") (result u32) (canon lift (core func $i "answer"))))
