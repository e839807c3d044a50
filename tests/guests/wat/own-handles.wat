;; A component that makes handles of a resource of its own, which are kept in the host's memory.
(component
  (type $thing (resource (rep i32)))
  (core func $new (canon resource.new $thing))
  (core module $m
    (import "host" "new" (func $new (param i32) (result i32)))
    (func (export "hold") (param $n i32) (result i32)
      (local $i i32)
      (block $done
        (loop $more
          (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
          (drop (call $new (local.get $i)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $more)))
      (local.get $i)))
  (core instance $i (instantiate $m (with "host" (instance (export "new" (func $new))))))
  (func (export "own-handles") (param "n" u32) (result u32) (canon lift (core func $i "hold"))))
