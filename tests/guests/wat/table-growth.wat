;; A component that grows a table until it gets no more, and says how large it got.
(component
  (core module $m
    (table $t 1 funcref)
    (func (export "grow") (result i32)
      (block $done
        (loop $more
          (br_if $done
            (i32.eq (table.grow $t (ref.null func) (i32.const 4096)) (i32.const -1)))
          (br $more)))
      (table.size $t)))
  (core instance $i (instantiate $m))
  (func (export "grow") (result u32) (canon lift (core func $i "grow"))))
