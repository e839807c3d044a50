;; A component that imports an interface which no host has.
(component
  (import "example:unknown/thing@1.0.0" (instance $thing
    (export "poke" (func (param "what" string) (result u32)))))
  (core module $m
    (func (export "answer") (result i32) (i32.const 42)))
  (core instance $i (instantiate $m))
  (func (export "answer") (result u32) (canon lift (core func $i "answer"))))
