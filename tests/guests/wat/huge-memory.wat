;; A component whose memory has 1.5 GiB from the start.
(component
  (core module $m
    (memory (export "memory") 24576)
    (func (export "size") (result i32) (memory.size)))
  (core instance $i (instantiate $m))
  (func (export "size") (result u32) (canon lift (core func $i "size"))))
