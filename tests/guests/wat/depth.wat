;; A component that calls itself as deep as it is told to.
(component
  (core module $m
    (func $deeper (export "deeper") (param $n i32) (result i32)
      (if (result i32) (i32.eqz (local.get $n))
        (then (i32.const 0))
        (else (i32.add (i32.const 1) (call $deeper (i32.sub (local.get $n) (i32.const 1))))))))
  (core instance $i (instantiate $m))
  (func (export "nest") (param "n" u32) (result u32) (canon lift (core func $i "deeper"))))
