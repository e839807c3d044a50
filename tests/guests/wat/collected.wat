;; A component that makes objects for a garbage collector, which would be memory beside the memories.
(component
  (core module $m
    (type $list (struct (field (ref null $list))))
    (func (export "grow") (result i32)
      (local $head (ref null $list))
      (loop $more
        (local.set $head (struct.new $list (local.get $head)))
        (br $more))
      (i32.const 0)))
  (core instance $i (instantiate $m))
  (func (export "grow-objects") (result u32) (canon lift (core func $i "grow"))))
