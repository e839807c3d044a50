;; A component by somebody who never heard of Fumehood: it exports one plain WIT function and has no manifest.
;; `search-divisor: func(number: u64, first: u64) -> u64` gives the first divisor of `number` from `first` on, by trying
;; one after the other: for a large prime that takes far longer than any call may compute.
(component
  (core module $m
    (func (export "search-divisor") (param $number i64) (param $candidate i64) (result i64)
      (loop $next
        (if (i64.ne (i64.rem_u (local.get $number) (local.get $candidate)) (i64.const 0))
          (then
            (local.set $candidate (i64.add (local.get $candidate) (i64.const 1)))
            (br $next))))
      (local.get $candidate)))
  (core instance $i (instantiate $m))
  (func (export "search-divisor") (param "number" u64) (param "first" u64) (result u64)
    (canon lift (core func $i "search-divisor"))))
