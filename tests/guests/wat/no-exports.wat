;; A component that exports nothing.
(component
  (core module $m)
  (core instance $i (instantiate $m)))
