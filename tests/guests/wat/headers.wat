;; A component that makes sets of HTTP headers, which are kept in the host's memory, and never sends them.
(component
  (import "wasi:http/types@0.2.0" (instance $http
    (export "fields" (type $fields (sub resource)))
    (export "[constructor]fields" (func (result (own $fields))))))
  (core func $fields (canon lower (func $http "[constructor]fields")))
  (core module $m
    (import "host" "fields" (func $fields (result i32)))
    (func (export "hold") (param $n i32) (result i32)
      (local $i i32)
      (block $done
        (loop $more
          (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
          (drop (call $fields))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $more)))
      (local.get $i)))
  (core instance $i (instantiate $m (with "host" (instance (export "fields" (func $fields))))))
  (func (export "hold-headers") (param "n" u32) (result u32) (canon lift (core func $i "hold"))))
