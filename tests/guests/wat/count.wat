;; A component that computes honestly: it counts to what it is told.
(component
  (core module $m
    (func (export "count") (param $n i64) (result i64)
      (local $i i64)
      (block $done
        (loop $more
          (br_if $done (i64.ge_u (local.get $i) (local.get $n)))
          (local.set $i (i64.add (local.get $i) (i64.const 1)))
          (br $more)))
      (local.get $i)))
  (core instance $i (instantiate $m))
  (func (export "count") (param "n" u64) (result u64) (canon lift (core func $i "count"))))
