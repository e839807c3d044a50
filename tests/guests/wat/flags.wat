;; A component that returns a few bytes for each of which the host has a list of names.
(component
  (core module $m
    (memory (export "memory") 62)
    ;; All flags of each set are set.
    (func (export "give") (param $n i32) (result i32)
      (memory.fill (i32.const 16) (i32.const 255) (i32.mul (local.get $n) (i32.const 4)))
      (i32.store (i32.const 0) (i32.const 16))
      (i32.store (i32.const 4) (local.get $n))
      (i32.const 0)))
  (core instance $i (instantiate $m))
  (type $set' (flags
    "a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p"
    "q" "r" "s" "t" "u" "v" "w" "x" "y" "z" "aa" "ab" "ac" "ad" "ae" "af"))
  (export $set "set" (type $set'))
  (func (export "give-flags") (param "n" u32) (result (list $set))
    (canon lift (core func $i "give") (memory (core memory $i "memory")))))
